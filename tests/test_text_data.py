"""Tests of text files, of named text, and of synthetic sentences with known right answers."""

import gzip
import hashlib
import itertools
import math

import numpy as np
import pytest

from tests.exact_text import (
    ExactModel,
    _Noise,
    exact_posterior,
    infer,
    read_words,
    true_model,
    truth,
)
from uncollapse._utils.correlations import canonical_correlations
from uncollapse._utils.errors import InputError
from uncollapse.data import NAMED, load, read_file
from uncollapse.data.corpora import YAHOO, YELP, load_corpus
from uncollapse.data.synthetic_text import TEST_TRUTH, synthetic_text, true_latents


@pytest.mark.parametrize("ending", [".txt", ".txt.gz"])
@pytest.mark.parametrize(
    ("content", "documents"),
    [
        ("a b\n c  d \nä\n", ["a b", "c  d", "ä"]),
        ("a b\nc", ["a b", "c"]),
        ("\ufeffa\r\nb\r\n", ["a", "b"]),
        ("a\u2028b\x0bc\nd\x85e\n", ["a\u2028b\x0bc", "d\x85e"]),
        ("one", ["one"]),
    ],
)
def test_a_line_is_a_document(tmp_path, ending, content, documents):
    path = tmp_path / f"x.y{ending}"
    path.write_bytes(gzip.compress(content.encode()) if ending == ".txt.gz" else content.encode())
    data = load(path)
    assert data.X.tolist() == documents
    assert (data.X.shape, data.X.dtype) == ((len(documents),), object)
    assert (data.labels, data.name, data.is_text) == (None, "x.y", True)
    assert data.table() is data.X


def test_numbers_are_no_text(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    assert not read_file(tmp_path / "x.npy").is_text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.txt", None, "there is no file .*x.txt"),
        ("x.txt.gz", None, "there is no file .*x.txt.gz"),
        ("x.txt", b"", r"x.txt is empty \(0 bytes\): expected a .txt file"),
        ("x.txt", b"\n \n", "x.txt holds no text"),
        ("x.txt.gz", gzip.compress(b"", mtime=0), "x.txt.gz holds no text"),
        ("x.txt", b"a\nb\n\nc\n", "x.txt has an empty line 3: remove it"),
        ("x.txt", b"\na\n", "x.txt has an empty line 1"),
        ("x.txt", b"a\n \t\r\nb", "x.txt has an empty line 2"),
        ("x.txt", b"a\n\n", "x.txt has an empty line 2"),
        ("x.txt", b"a\nb \xe4\nc", "x.txt is no UTF-8 in line 2"),
        ("x.txt", b"\xef\xbb\xbfa\n\xe4", "x.txt is no UTF-8 in line 2"),
        ("x.txt", "ä".encode("utf-16"), "x.txt is no UTF-8 in line 1"),
        ("x.txt.gz", gzip.compress(b"a\nb\n\xff", mtime=0), "x.txt.gz is no UTF-8 in line 3"),
        ("x.txt.gz", b"no gzip", r"x.txt.gz cannot be read as .txt.gz \(.*may be damaged"),
        ("x.txt.gz", gzip.compress(b"a\nb\n", mtime=0)[:-9], r"x.txt.gz cannot be read as .txt.gz"),
        (
            "x.txt.gz",
            gzip.compress(b"abcd" * 99, mtime=0)[:12] + bytes(20),
            r"x.txt.gz cannot be read as .txt.gz",
        ),
        (".txt", b"a", "there is no data set"),
        ("x.gz", b"a", "there is no data set"),
    ],
)
def test_unreadable_text_is_refused_in_a_sentence(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        load(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_text_has_no_labels(tmp_path):
    (tmp_path / "x.txt").write_text("a\nb\n")
    with pytest.raises(
        InputError,
        match=r"x.txt holds documents and has no part named 'kind': leave the labels out",
    ):
        load(tmp_path / "x.txt", labels="kind")


@pytest.fixture
def local(tmp_path, monkeypatch):
    """Use a data folder with two of Yelp's parts, and an empty cache."""
    monkeypatch.setenv("UNCOLLAPSE_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "yelp").mkdir()
    (tmp_path / "yelp" / "yelp.valid.txt.gz").write_bytes(gzip.compress(b"good\nbad\n"))
    (tmp_path / "yelp" / "yelp.test.txt.gz").write_bytes(gzip.compress(b"fine\n"))
    return tmp_path


def test_parts_of_a_corpus_come_from_their_files(local):
    data = load("yelp", "validation")
    assert data.X.tolist() == ["good", "bad"]
    assert (data.name, data.labels, data.defaults) == ("yelp", None, {"latent_dim": 32})
    assert load("yelp", "test").X.tolist() == ["fine"]


def test_a_part_that_is_missing_is_named_with_what_to_do(local, monkeypatch):
    with pytest.raises(InputError) as caught:
        load("yelp")
    assert str(caught.value) == (
        "yelp has no train part on this machine (there is: validation, test): put "
        "yelp.train.txt.gz, which is not for download, "
        f"into {local}/yelp, or take a part that is there (--split)."
    )
    with pytest.raises(
        InputError,
        match=r"yahoo has no validation part on this machine \(there is: none\): put "
        r"yahoo.valid.txt.gz",
    ):
        load("yahoo", "validation")
    monkeypatch.delenv("UNCOLLAPSE_DATA")
    with pytest.raises(InputError, match=r"into \$UNCOLLAPSE_DATA/yelp"):
        load("yelp", "test")


def test_what_is_not_for_download_is_said_to_be_so(local, command_line, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    assert (
        NAMED["yelp"].whereabouts() == "1 of 3 files missing, not for download: yelp.train.txt.gz"
    )
    code, out, _ = command_line("data", "list")
    assert code == 0
    assert (
        "3 of 3 files missing, not for download: yahoo.train.txt.gz, yahoo.valid.txt.gz, "
        "yahoo.test.txt.gz" in out
    )
    code, _, err = command_line("data", "fetch", "yelp")
    assert (code, err) == (
        2,
        f"error: yelp.train.txt.gz is not on this machine and has no download: put it into "
        f"{local}/yelp.\n",
    )
    (local / "yelp" / "yelp.train.txt.gz").write_bytes(gzip.compress(b"well\n"))
    assert load("yelp").X.tolist() == ["well"]
    assert NAMED["yelp"].whereabouts() == str(local / "yelp")
    assert command_line("data", "fetch", "yelp")[1].endswith("yelp is ready\n")


def test_splits_are_those_of_the_data_set(tmp_path):
    with pytest.raises(
        InputError,
        match="split expects one of train, test, got 'validation': these are the splits of digits",
    ):
        load("digits", "validation")
    for name in ("synthetic-text", "yahoo"):
        with pytest.raises(
            InputError,
            match=f"one of train, validation, test, got 'valid': these are the splits of {name}",
        ):
            load(name, "valid")
    with pytest.raises(
        InputError, match="split expects one of train, validation, test, got 'half'"
    ):
        load(tmp_path / "x.txt", "half")
    with pytest.raises(InputError, match="leave them out"):
        load("synthetic-text", labels="kind")


def test_the_command_line_counts_documents(tmp_path, command_line):
    (tmp_path / "x.txt").write_text("a b\nc\n")
    code, out, err = command_line("fit", tmp_path / "x.txt", "-o", tmp_path / "run")
    assert code == 2
    assert out == f"training on {tmp_path / 'x.txt'}: 2 documents\n"
    assert err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "first", "n_words", "longest"),
    [
        (
            YAHOO,
            {
                "validation": "what do you think of <unk> organization ?",
                "test": "if you were a character from a movie ,",
            },
            20_000,
            200,
        ),
        (
            YELP,
            {"validation": "no common sense !", "test": "husband loves the thin crust pizza ."},
            10_265,
            15,
        ),
    ],
    ids=["yahoo", "yelp"],
)
def test_the_corpora_are_those_of_their_papers(source, first, n_words, longest):
    files = [f"{source.folder}.{word}.txt.gz" for word in ("valid", "test")]
    if any(source.find(file) is None for file in files):
        pytest.skip(f"{source.folder} is not on this machine (UNCOLLAPSE_DATA)")
    parts = {split: load_corpus(source, split).X for split in first}
    for split, beginning in first.items():
        assert len(parts[split]) == 10_000
        assert parts[split][0].startswith(beginning)
    words = {
        word for documents in parts.values() for document in documents for word in document.split()
    }
    assert 0.9 * n_words < len(words) <= n_words
    assert (
        max(len(document.split()) for documents in parts.values() for document in documents)
        == longest
    )


# The synthetic sentences.


def tiny_model(latent_dim, seed=0, n_words=7, history_dim=3, hidden_dim=4):
    rng = np.random.default_rng(seed)

    def gaussian(*shape):
        return rng.standard_normal(shape)

    return ExactModel(
        gaussian(history_dim, history_dim) / 2,
        gaussian(n_words, history_dim),
        2 * gaussian(hidden_dim, latent_dim),
        gaussian(hidden_dim, history_dim),
        gaussian(hidden_dim),
        2 * gaussian(n_words, hidden_dim),
        gaussian(n_words),
    )


def spelled_out(model, words, z):
    """Compute log p(x|z) of one sentence, word by word."""
    history, total = np.zeros(len(model.recurrence)), 0.0
    for word in words:
        hidden = np.tanh(model.from_latents @ z + model.from_history @ history + model.hidden_bias)
        logits = model.output @ hidden + model.output_bias
        total += math.log(math.exp(logits[word]) / sum(math.exp(logit) for logit in logits))
        history = np.tanh(model.recurrence @ history + model.embedding[word])
    return total


def prior_grid(latent_dim):
    """Return the points of a fine grid and their masses under N(0, I), by the trapezoidal rule,
    which converges exponentially fast here."""
    axis = np.linspace(-8, 8, {1: 4001, 2: 201}[latent_dim])
    density = np.exp(-(axis**2) / 2)
    grid = np.array(list(itertools.product(axis, repeat=latent_dim)))
    return grid, np.prod(
        list(itertools.product(density / density.sum(), repeat=latent_dim)), axis=1
    )


def test_the_likelihood_is_that_of_the_definition_and_adds_up_to_one():
    model = tiny_model(2)
    z = np.array([[0.3, -1.2], [2.0, 0.1]])
    words = np.array([[0, 6, 2, 2], [5, 1, 3, 0]])
    likelihood = model.log_likelihood(words, np.stack([z, z[::-1]]))
    assert likelihood[0] == pytest.approx(
        [spelled_out(model, words[0], row) for row in z], abs=1e-12
    )
    assert likelihood[1] == pytest.approx(
        [spelled_out(model, words[1], row) for row in z[::-1]], abs=1e-12
    )
    everything = np.array(list(itertools.product(range(7), repeat=4)))
    total = np.exp(
        model.log_likelihood(everything, np.broadcast_to(z[0], (len(everything), 1, 2)))
    ).sum()
    assert total == pytest.approx(1, abs=1e-12)


def test_the_score_is_the_gradient_and_its_variance_is_the_information():
    model, z = tiny_model(2), np.array([0.4, -0.7])
    everything = np.array(list(itertools.product(range(7), repeat=3)))
    at = np.broadcast_to(z, (len(everything), 2))
    gradient, information = model.score(everything, at)
    for axis in np.eye(2) * 1e-6:
        ahead, behind = (
            model.log_likelihood(everything, (at + sign * axis)[:, None])[:, 0] for sign in (1, -1)
        )
        assert gradient @ axis * 1e6 == pytest.approx((ahead - behind) / 2e-6, abs=1e-7)
    chances = np.exp(model.log_likelihood(everything, at[:, None])[:, 0])
    assert np.einsum("n,ni,nj->ij", chances, gradient, gradient) == pytest.approx(
        np.einsum("n,nij->ij", chances, information), abs=1e-12
    )


def test_words_are_drawn_with_their_probabilities():
    model = tiny_model(1)
    z = np.full((40_000, 1), 0.8)
    words = model.draw(z, np.random.default_rng(0).random((40_000, 2)))
    pairs = np.array(list(itertools.product(range(7), repeat=2)))
    expected = np.exp(model.log_likelihood(pairs, np.full((49, 1, 1), 0.8))[:, 0])
    seen = np.array([(words == pair).all(axis=1).mean() for pair in pairs])
    assert np.abs(seen - expected).max() < 4 * math.sqrt(0.25 / 40_000)
    assert (np.abs(seen - expected) / np.sqrt(expected / 40_000)).mean() < 1.1


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_inference_agrees_with_integration(latent_dim):
    """With few latents, an integral over a grid is exact: log p(x), E[z|x] and the KL."""
    model = tiny_model(latent_dim)
    rng = np.random.default_rng(0)
    words = model.draw(rng.standard_normal((10, latent_dim)), rng.random((10, 6)))
    grid, masses = prior_grid(latent_dim)
    given = model.log_likelihood(words, np.broadcast_to(grid, (10, *grid.shape)))
    evidence = np.log(np.exp(given) @ masses)
    posterior = np.exp(given) * masses / np.exp(evidence)[:, None]
    found = infer(model, words, 10_000)
    errors = (found.log_likelihood_nats - evidence) / found.standard_errors_nats
    assert found.standard_errors_nats.max() < 0.02
    tolerance = 6 * found.standard_errors_nats
    assert np.sqrt((errors**2).mean()) < 1.4
    assert np.abs(errors).max() < 4
    assert (np.abs(found.means - posterior @ grid) < tolerance[:, None]).all()
    assert (np.abs(found.kl_nats - ((posterior * given).sum(axis=1) - evidence)) < tolerance).all()
    assert np.allclose(
        found.standard_errors_nats, np.sqrt((10_000 / found.effective_sample_sizes - 1) / 9_999)
    )


def test_the_sentences_are_the_same_everywhere():
    hashes = {
        "validation": "78ba874b3ad4abed996fd4002f2a11b211f7baeb720cd5c3d5f1065c0db08ece",
        "test": "6d16a31af92a654c72755bc34c53356e389dac544a7c3862f7ec8484a4ae79a9",
    }
    for split, expected in hashes.items():
        data = load("synthetic-text", split)
        assert len(data.X) == 2_000
        assert hashlib.sha256("\n".join(data.X).encode()).hexdigest() == expected
    assert data.X[:2].tolist() == [
        "w481 w462 w263 w260 w579 w909 w231 w973 w953 w710",
        "w748 w830 w792 w288 w687 w166 w12 w594 w672 w790",
    ]
    assert (data.name, data.labels, data.defaults) == ("synthetic-text", None, {"latent_dim": 5})


@pytest.mark.slow
def test_every_word_is_learned_and_the_history_matters():
    train = load("synthetic-text")
    assert len(train.X) == 16_000
    assert (
        hashlib.sha256("\n".join(train.X).encode()).hexdigest()
        == "25683c2661ff667cae5291e203f03459139f0ab4266ae8923d868ea197079e94"
    )
    words = read_words(train.X)
    counts = np.bincount(words.ravel(), minlength=1000)
    assert len(counts) == 1000
    assert counts.min() >= 1
    # How much more probable words are to one who knows the history as well as how often a word
    # comes, but not z.
    model, draws = true_model(), np.random.default_rng(0).standard_normal((1, 400, 5))
    gain = []
    for i, history in enumerate(model.histories(words[:200])):
        for row in range(200):
            weights = model.weights(model.hidden(history[row : row + 1], draws)[0])
            chance = (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0)[words[row, i]]
            gain += [math.log(chance) - math.log(counts[words[row, i]] / counts.sum())] if i else []
    assert np.mean(gain) - 4 * np.std(gain) / math.sqrt(len(gain)) > 0.15


def test_latents_belong_to_their_sentences():
    latents = true_latents("test")
    assert latents.shape == (2_000, 5)
    assert np.abs(latents.mean(axis=0)).max() < 4 / math.sqrt(2_000)
    assert np.cov(latents.T) == pytest.approx(np.eye(5), abs=0.12)
    assert not np.array_equal(latents, true_latents("validation"))
    words = read_words(synthetic_text("test").X)
    own, other = (
        true_model().log_likelihood(words, z[:, None])[:, 0].mean()
        for z in (latents, latents[::-1])
    )
    assert own - other > 5


def test_the_exact_likelihood_agrees_with_draws_from_the_prior():
    sentences = synthetic_text("test").X[:1]
    found = exact_posterior(sentences, 2_000)
    draws = np.random.default_rng(1).standard_normal((10_000, 5))
    for i, words in enumerate(read_words(sentences)):
        given = true_model().log_likelihood(words[None], draws[None])[0]
        likelihoods = np.exp(given)
        weights = likelihoods / likelihoods.sum()
        error = likelihoods.std() / likelihoods.mean() / math.sqrt(len(draws))
        assert error < 0.3
        assert found.log_likelihood_nats[i] == pytest.approx(
            math.log(likelihoods.mean()), abs=4 * error
        )
        assert found.means[i] == pytest.approx(weights @ draws, abs=4 * error)


def test_an_estimate_belongs_to_its_sentence():
    sentences = synthetic_text("test").X[:30]
    together, alone = exact_posterior(sentences, 200), exact_posterior(sentences[[20, 3]], 200)
    assert together.log_likelihood_nats[[20, 3]] == pytest.approx(
        alone.log_likelihood_nats, abs=1e-9
    )
    assert together.means[[20, 3]] == pytest.approx(alone.means, abs=1e-9)
    starts = _Noise(read_words(sentences), 5, 100).starts
    assert (
        len({row.tobytes() for row in starts}) == 30
    )  # or errors would not average out over sentences


def test_the_published_information_is_the_published_nll_less_that_given_the_latents():
    latents, words = true_latents("test"), read_words(synthetic_text("test").X)
    given = true_model().log_likelihood(words, latents[:, None])[:, 0]
    assert TEST_TRUTH.nll_nats - TEST_TRUTH.information_nats == pytest.approx(
        -given.mean(), abs=2e-4
    )


@pytest.mark.slow
def test_the_published_truth_agrees_with_a_part_of_the_test_sentences():
    sentences, latents = synthetic_text("test").X[:100], true_latents("test")[:100]
    part = truth(sentences, latents, 200)
    published = TEST_TRUTH
    assert abs(part.nll_nats - published.nll_nats) < 3 * part.nll_standard_error
    assert (
        abs(part.information_nats - published.information_nats)
        < 3 * part.information_standard_error
    )
    assert abs(part.kl_nats - published.kl_nats) < 3 * part.kl_standard_error
    assert np.array(part.correlations) == pytest.approx(published.correlations, abs=0.08)
    assert 3 < published.information_nats < 8


@pytest.mark.slow
def test_the_published_truth_is_what_comes_out(monkeypatch):
    """All test sentences, with fewer draws. The mean of KL(p(z|x) || p(z)) estimates the
    information."""
    # Importance sampling is exact in expectation wherever the search for the modes stops.
    monkeypatch.setattr("tests.exact_text.N_STEPS", 6)
    sentences, latents = synthetic_text("test").X, true_latents("test")
    found = exact_posterior(sentences, 100)
    assert -found.log_likelihood_nats.mean() == pytest.approx(TEST_TRUTH.nll_nats, abs=0.02)
    assert canonical_correlations(found.means, latents) == pytest.approx(
        TEST_TRUTH.correlations, abs=0.01
    )
    given = true_model().log_likelihood(read_words(sentences), latents[:, None])[:, 0]
    differences = given - found.log_likelihood_nats - found.kl_nats
    assert (given - found.log_likelihood_nats).mean() == pytest.approx(
        TEST_TRUTH.information_nats, abs=0.02
    )
    assert found.kl_nats.mean() == pytest.approx(TEST_TRUTH.kl_nats, abs=0.02)
    assert abs(differences.mean()) < 3 * differences.std() / math.sqrt(len(differences))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: synthetic_text("half"),
            "split expects one of train, validation, test, got 'half'",
        ),
        (lambda: true_latents("half"), "split expects one of train, validation, test, got 'half'"),
    ],
)
def test_unsuitable_arguments_are_refused(call, words):
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
