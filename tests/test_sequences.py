"""Sequential VAEs: probabilities that sum to one, a constant for every history, and documents in
and out."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import uncollapse as uc
from uncollapse._utils.errors import InputError
from uncollapse._utils.random import derived_seed, seeded
from uncollapse._utils.vocabulary import PAD, Vocabulary
from uncollapse.families import Categorical
from uncollapse.latent import DiagonalGaussian, StandardNormal
from uncollapse.maps import EMBEDDINGS, InverseLipschitzDecoder
from uncollapse.measures import worker_pool
from uncollapse.measures.fisher import fisher_divergence_of_rows
from uncollapse.measures.likelihood import importance_log_likelihood_per_row
from uncollapse.measures.posteriors import infer
from uncollapse.models import HistoryLSTM, SequenceModel
from uncollapse.networks import LSTMEncoder, MLPDecoder
from uncollapse.objectives import Elbo, Loss
from uncollapse.training.batches import BatchesInMemory

LATENT, HIDDEN, V = 2, 5, 4  # symbols 0 and 1, the unknown 2, the end 3
KINDS = ("joint", "additive", "plain")
SIZES = {"embedding_dim": 3, "hidden_dim": HIDDEN, "n_layers": 2}


def sequence_model(kind="joint", constant=0.5, word_dropout=0.0, n_symbols=V, pooled=False):
    torch.manual_seed(0)
    plain, context_dim = kind == "plain", HIDDEN if kind == "joint" else 0
    decoder = MLPDecoder(LATENT + HIDDEN, n_symbols - 1, ()) if plain else None
    decoder = decoder or InverseLipschitzDecoder(
        LATENT, n_symbols - 1, (8, 8), constant, context_dim=context_dim
    )
    head = nn.Linear(HIDDEN, n_symbols - 1, bias=False) if kind == "additive" else None
    history = HistoryLSTM(n_symbols, **SIZES, latent_dim=LATENT if plain else 0)
    posterior = DiagonalGaussian(LSTMEncoder(n_symbols, 2 * LATENT, **SIZES, pooled=pooled))
    model = SequenceModel(
        StandardNormal(LATENT),
        posterior,
        history,
        decoder,
        Categorical(n_symbols),
        head,
        word_dropout,
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7 if plain else 0.4)
    return model.double().eval().requires_grad_(False)


def as_rows(*sequences, width=6):
    rows = np.full((len(sequences), width), PAD, np.float64)
    for row, sequence in zip(rows, sequences, strict=True):
        row[: len(sequence)] = sequence
    return torch.as_tensor(rows)


def logits_of(model, code, h):
    """By hand, of one symbol, the end's as 0."""
    eta = (
        model.decoder(torch.cat([code, h]))
        if model.head is None
        else model.decoder(code) + model.head.weight @ h
    )
    return torch.cat([eta, torch.zeros(1)])


ROWS = as_rows([0, 1, 1, 3], [1, 3], [2, 0, 1, 0, 3], [0, 0, 3])


def codes(n, *shape):
    return torch.randn(
        *shape, n, LATENT, dtype=torch.double, generator=torch.Generator().manual_seed(1)
    )


# The likelihood.


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_of_all_sequences_sum_to_one(kind):
    """Those that end within three symbols, and those that go on after two."""
    model, z = sequence_model(kind), codes(1)
    ended = [[*middle, 3] for n in range(3) for middle in itertools.product(range(3), repeat=n)]
    rows = as_rows(*ended)
    total = model.log_likelihood(rows, z.expand(len(rows), -1)).exp().sum()
    going_on = [list(middle) for middle in itertools.product(range(3), repeat=3)]
    rest = model.log_likelihood(as_rows(*going_on), z.expand(len(going_on), -1)).exp().sum()
    assert float(total + rest) == pytest.approx(1, abs=1e-12)
    assert 0.01 < float(total) < 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_the_likelihood_is_that_of_one_symbol_after_the_other(kind):
    model, z = sequence_model(kind), codes(len(ROWS))
    found = model.log_likelihood(ROWS, z)
    for row, code, value in zip(ROWS, z, found, strict=True):
        total, before, state = 0.0, V, None
        for symbol in row[row >= 0].long():
            context, state = model.history(torch.tensor([[before]]), code[None, None], state)
            logits = logits_of(model, code, context[0, 0])
            total += float(logits.log_softmax(0)[symbol])
            before = int(symbol)
        assert float(value) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_neighbors_nor_width_nor_the_number_of_draws_change_a_likelihood(kind):
    model, z = sequence_model(kind), codes(len(ROWS), 3)
    whole = model.log_likelihood(ROWS, z)
    assert whole.shape == (3, len(ROWS))
    for index in range(len(ROWS)):
        alone = torch.nn.functional.pad(ROWS[index : index + 1], (0, 9), value=PAD)
        for draw in range(3):
            assert torch.allclose(
                model.log_likelihood(alone, z[draw, index : index + 1]),
                whole[draw, index],
                atol=1e-12,
            )


def test_the_history_sees_z_only_in_the_plain_model():
    before, (first, second) = torch.tensor([[V, 0, 1]]), codes(2)
    for kind in KINDS:
        history = sequence_model(kind).history
        same = torch.equal(
            history(before, first[None, None])[0], history(before, second[None, None])[0]
        )
        assert same is (kind != "plain")


def test_a_whole_sequence_has_no_distribution():
    assert not hasattr(sequence_model(), "likelihood")


# Injectivity.


def test_v_logits_would_not_be_injective_and_v_minus_1_parameters_are():
    """A constant added to all V logits changes no probability; of V - 1 log-odds every change
    does."""
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.double)
    assert torch.allclose((logits + 1.7).softmax(0), logits.softmax(0), atol=1e-15)
    family, eta = Categorical(V), logits[:-1]
    moved = family.expectation(eta + 1.7)
    assert (moved - family.expectation(eta)).abs().max() > 0.05
    assert torch.allclose(family.natural(moved), eta + 1.7, atol=1e-6)


SHAPES = {"padded": (2, 3, 12), "as large": (2, 3, 5), "cut": (2, 9, 5), "cut to z": (3, 20, 3)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("constants", "embedding"),
    [((0.5, 0.5), "padding"), ((1.5, 0.3), "padding"), ((0.5, 0.5), "principal")],
)
def test_the_constant_holds_in_z_for_every_history(shape, constants, embedding):
    """Sought against by gradient descent on the ratio, from pairs near and far."""
    latent_dim, context_dim, natural_dim = SHAPES[shape]
    torch.manual_seed(0)
    kind = EMBEDDINGS[embedding]
    decoder = InverseLipschitzDecoder(
        latent_dim, natural_dim, (8, 8), constants, kind, context_dim=context_dim
    ).double()
    decoder.initialize_from_data(np.random.default_rng(0).normal(size=(50, natural_dim)))
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.6)
    assert decoder.constant == pytest.approx(math.prod(constants))
    assert decoder.information_constant is None
    h = torch.randn(64, context_dim, dtype=torch.double)
    z = torch.randn(64, latent_dim, dtype=torch.double)
    w = z + torch.randn_like(z) * torch.logspace(-4, 1, 64, dtype=torch.double)[:, None]
    points = [each.requires_grad_() for each in (z, w, h)]
    optimizer = torch.optim.Adam(points, lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        moved = decoder(torch.cat([z, h], 1)) - decoder(torch.cat([w, h], 1))
        ratio = moved.norm(dim=1) / (z - w).norm(dim=1)
        ratio.sum().backward()
        optimizer.step()
        assert (ratio >= decoder.constant * (1 - 1e-6)).all()


def test_an_added_history_leaves_what_z_moves_as_it_is():
    """Log-odds at two z, after two histories: their differences are those of the decoder, which
    keeps its constant."""
    model, (first, second) = sequence_model("additive", constant=1.5, n_symbols=7), codes(2)
    decoded = model.decoder(first) - model.decoder(second)
    assert float(decoded.norm()) >= 1.5**2 * float((first - second).norm())
    for sequence in ([0, 1, 1, 6], [5, 5, 2, 0, 6]):
        rows = as_rows(
            *([*sequence[:-1], symbol] for symbol in range(7))
        )  # the same history, then each symbol
        log_p = [model.log_likelihood(rows, code.expand(7, -1)) for code in (first, second)]
        odds = [each[:-1] - each[-1] for each in log_p]
        assert torch.allclose(odds[0] - odds[1], decoded, atol=1e-10)
    nn.init.zeros_(model.head.weight)
    assert not torch.allclose(model.log_likelihood(rows, first.expand(7, -1)), log_p[0])


def test_z_moves_shares_along_the_leading_directions_of_documents():
    """Two kinds of documents: what z can do without any potential is to trade the words of one
    against those of the other.

    Nearly alike, as those held out are not equally many of each kind.
    """
    documents = ["a b"] * 20 + ["c d"] * 20
    vae = uc.SequenceVAE(
        latent_dim=1, hidden=(4,), hidden_dim=1, max_epochs=1, min_count=1, random_state=0
    ).fit(documents)
    direction = vae.model_.decoder.embedding.basis[:, 0]
    there = {word: direction[vae.vocabulary_.known.index(word)] for word in "abc"}
    assert there["a"] == pytest.approx(there["b"])
    assert there["c"] == pytest.approx(-float(there["a"]), abs=0.05)
    assert abs(there["a"]) == pytest.approx(0.5, abs=0.1)


def test_z_is_not_spent_on_a_frequent_word_that_comes_and_goes_by_chance():
    """ "the" varies more than any other, and says nothing of the kind that a document is of."""
    chance = np.random.default_rng(0)
    kinds = [[f"{kind}{number}" for number in range(40)] for kind in "ab"]
    documents = [
        " ".join(chance.choice(kinds[row % 2], size=20 - count).tolist() + ["the"] * count)
        for row, count in enumerate(chance.binomial(20, 0.5, size=400))
    ]
    vae = uc.SequenceVAE(
        latent_dim=1, hidden=(4,), hidden_dim=1, max_epochs=1, min_count=1, random_state=0
    ).fit(documents)
    direction, known = vae.model_.decoder.embedding.basis[:, 0], vae.vocabulary_.known
    assert abs(direction[known.index("the")]) < 0.05
    signs = {word: float(direction[known.index(word)].sign()) for kind in kinds for word in kind}
    assert {signs[word] for word in kinds[0]} == {-signs[kinds[1][0]]}
    assert len({signs[word] for word in kinds[1]}) == 1


def test_a_document_that_repeats_one_word_has_no_direction_for_itself():
    """Without the limit on how far from the mean a document counts, w199 has a weight of 0.99."""
    chance = np.random.default_rng(0)
    frequencies = 1 / np.arange(1, 201)
    documents = [
        " ".join(f"w{word}" for word in chance.choice(200, 8, p=frequencies / frequencies.sum()))
        for _ in range(1000)
    ]
    documents += ["w199 w199 w199 w199 w199 w199 w199 w199"] * 2  # one of them may be held out
    vae = uc.SequenceVAE(
        latent_dim=2, hidden=(4,), hidden_dim=1, max_epochs=1, min_count=1, random_state=0
    ).fit(documents)
    assert vae.model_.decoder.embedding.basis[vae.vocabulary_.known.index("w199")].abs().max() < 0.7


def test_without_potentials_a_decoder_pads_and_cuts():
    for context_dim, natural_dim in ((1, 5), (6, 4)):
        decoder = InverseLipschitzDecoder(2, natural_dim, (4,), (2.0, 3.0), context_dim=context_dim)
        for parameter in decoder.parameters():
            nn.init.zeros_(parameter)
        u = torch.arange(1.0, 3 + context_dim)
        origin = decoder(torch.zeros_like(u))
        expected = torch.nn.functional.pad(6 * u, (0, max(0, natural_dim - len(u))))[:natural_dim]
        assert torch.allclose(decoder(u) - origin, expected, atol=1e-5)


def test_a_decoder_with_context_has_no_inverse_and_needs_room_for_z():
    with pytest.raises(InputError, match="inverse expects a decoder of z alone"):
        InverseLipschitzDecoder(2, 5, (4,), 1.0, context_dim=3).inverse(torch.zeros(5))
    with pytest.raises(InputError, match="latent_dim <= natural dimension"):
        InverseLipschitzDecoder(6, 5, (4,), 1.0, context_dim=3)


# Posteriors, objectives, estimates.


@pytest.mark.parametrize("pooled", [False, True])
def test_a_posterior_sees_the_whole_row_and_nothing_after_it(pooled):
    model = sequence_model(pooled=pooled)
    q = model.posterior(ROWS)
    for index in range(len(ROWS)):
        alone = model.posterior(torch.nn.functional.pad(ROWS[index : index + 1], (0, 4), value=PAD))
        assert torch.allclose(alone.mean, q.mean[index], atol=1e-12)
        assert torch.allclose(alone.stddev, q.stddev[index], atol=1e-12)
    changed = ROWS.clone()
    changed[:, 0] = 1 - changed[:, 0].clamp(max=1)
    assert (model.posterior(changed).mean - q.mean).abs().min() > 1e-4


@pytest.mark.parametrize("pooled", [False, True])
def test_a_posterior_follows_from_the_last_state_or_from_the_mean_of_all(pooled):
    encoder = sequence_model(pooled=pooled).posterior.encoder
    for row in ROWS:
        states = encoder.lstm(encoder.embedding(row[row >= 0].long())[None])[0][0]
        expected = encoder.head(states.mean(0) if pooled else states[-1])
        assert torch.allclose(encoder(row[None])[0], expected, atol=1e-12)


def test_words_are_dropped_in_training_only_and_never_the_start():
    model = sequence_model(word_dropout=0.4)
    before = torch.cat([torch.full((2000, 1), V), torch.zeros(2000, 5, dtype=torch.long)], 1)
    torch.manual_seed(0)
    seen = model._drop_words(before, before.double())
    assert (seen[:, 0] == V).all()
    share = (seen[:, 1:] == model.unknown).double().mean()
    assert float(share) == pytest.approx(0.4, abs=0.02)
    z = codes(len(ROWS))
    kept = sequence_model().log_likelihood(ROWS, z)
    assert torch.equal(model.log_likelihood(ROWS, z), kept)
    assert not torch.equal(model.train().log_likelihood(ROWS, z), kept)


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (5, 0.1), (10, 0.2), (99, 0.2)])
def test_the_weight_of_the_kl_rises_to_beta(step, weight):
    model = sequence_model()
    torch.manual_seed(0)
    loss, terms = Elbo(beta=0.2, warmup_steps=10)(model, ROWS, step)
    expected = (weight * terms.latents.kl - terms.log_px_z).mean()
    assert float(loss) == pytest.approx(float(expected), abs=1e-12)
    torch.manual_seed(0)
    assert float(Elbo()(model, ROWS, 0).value) == pytest.approx(
        float(-terms.elbo.mean()), abs=1e-12
    )


def test_importance_weighting_is_exact_where_z_does_not_matter():
    model = sequence_model("plain")
    with torch.no_grad():
        model.decoder.net[0].weight[:, :LATENT] = 0
        model.history.lstm.weight_ih_l0[:, -LATENT:] = 0
        model.posterior.encoder.head.weight.zero_()
        model.posterior.encoder.head.bias.copy_(
            torch.tensor([0.0] * LATENT + [math.log(math.expm1(1 - 1e-6))] * LATENT)
        )
    exact = model.log_likelihood(ROWS, codes(len(ROWS)))
    found = importance_log_likelihood_per_row(model, ROWS.numpy(), n_samples=7)
    assert np.allclose(found, exact.detach(), atol=1e-5)


def test_the_fisher_divergence_is_that_of_finite_differences():
    model, step = sequence_model(), 1e-5
    found = fisher_divergence_of_rows(model, ROWS.numpy(), n_samples=8)
    with torch.no_grad():
        torch.manual_seed(0)
        draws = model.prior().sample((2,))
        squares = []
        for z in draws:
            score = torch.zeros(len(ROWS), LATENT, dtype=torch.double)
            for unit in range(LATENT):
                moved = [
                    z + sign * step * torch.eye(LATENT, dtype=torch.double)[unit]
                    for sign in (1, -1)
                ]
                up, down = (
                    model.log_likelihood(ROWS, each.expand(len(ROWS), -1)) for each in moved
                )
                score[:, unit] = (up - down) / (2 * step)
            squares.append(score.square().sum(1).mean())
    assert found.value == pytest.approx(float(torch.stack(squares).mean()), rel=1e-6)


# Generation.


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_generation_takes_the_most_probable_symbol_each_time(kind):
    model, z = sequence_model(kind), codes(5)
    rows = model.generate(z, max_length=6, greedy=True)
    for row, code in zip(rows, z, strict=True):
        before, state = V, None
        for place, symbol in enumerate(row[row >= 0].long().tolist()):
            context, state = model.history(torch.tensor([[before]]), code[None, None], state)
            logits = logits_of(model, code, context[0, 0])
            assert symbol == (int(logits.argmax()) if place < 6 else model.end)
            before = symbol
        assert before == model.end


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_generated_symbols_follow_the_model(temperature):
    model, z = sequence_model(), codes(1).expand(20_000, -1)
    torch.manual_seed(0)
    first = model.generate(z, max_length=3, temperature=temperature)[:, 0].long()
    context, _ = model.history(torch.tensor([[V]]), z[:1, None])
    logits = logits_of(model, z[0], context[0, 0]) / temperature
    expected = logits.softmax(0).detach().numpy()
    found = np.bincount(first.numpy(), minlength=V) / 20_000
    assert np.allclose(found, expected, atol=4 * np.sqrt(expected * (1 - expected) / 20_000).max())


def test_what_does_not_end_is_cut_off_with_an_end():
    model = sequence_model()
    with torch.no_grad():
        model.decoder.start_at(torch.full((V - 1,), 50.0, dtype=torch.double))
    rows = model.generate(codes(4), max_length=3)
    assert rows.shape == (4, 4)
    assert (rows[:, :3] < V - 1).all()
    assert (rows[:, 3] == V - 1).all()


# Batches of similar length.


def test_every_row_is_met_once_an_epoch_in_batches_of_similar_length():
    lengths = torch.as_tensor(np.random.default_rng(0).integers(1, 60, size=1003))
    rows = BatchesInMemory(torch.arange(1003.0)[:, None], 10, seed=3, lengths=lengths)
    epochs = []
    for epoch in (0, 1, 0):
        batches = [batch[:, 0].long() for batch in rows.batches(epoch)]
        assert len(batches) == rows.n_batches == 101
        assert sorted(torch.cat(batches).tolist()) == list(range(1003))
        filled = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
        assert filled < 1.1 * int(lengths.sum())
        epochs.append(torch.cat(batches))
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])
    longest = [int(lengths[batch].max()) for batch in batches]
    assert longest != sorted(longest)


def test_the_batch_that_is_left_over_is_not_that_of_the_longest():
    rows = BatchesInMemory(torch.arange(33.0)[:, None], 32, seed=0, lengths=torch.arange(33))
    alone = []
    for epoch in range(6):
        alone += [int(batch) for batch in rows.batches(epoch) if len(batch) == 1]
    assert len(alone) == 6
    assert len(set(alone)) > 2


def test_long_documents_are_scored_in_smaller_batches():
    rows = np.full((100, 300), PAD, np.float64)
    rows[:90, :10] = 0
    rows[90:] = 0
    batches = worker_pool._batches(sequence_model().evaluations_in_memory(rows, 64))
    assert [row for batch in batches for row in range(100)[batch]] == list(range(100))
    costs = [int((rows[batch] >= 0).sum()) for batch in batches]
    assert max(costs) <= worker_pool.EVALUATIONS_AT_ONCE
    assert sum(costs) == 90 * 10 + 10 * 300
    assert worker_pool._batches(np.array([9000, 1, 9000])) == [
        slice(0, 1),
        slice(1, 2),
        slice(2, 3),
    ]


def test_a_training_does_not_go_on_by_other_documents_than_it_was_begun_with(tmp_path):
    settings = {
        "latent_dim": 2,
        "hidden": (4,),
        "hidden_dim": 4,
        "embedding_dim": 4,
        "max_epochs": 1,
        "random_state": 0,
        "verbose": False,
    }
    documents = ["a b", "b a", "a a", "b b"]
    uc.SequenceVAE(**settings).fit(
        documents, validation=["a b", "b b"], checkpoint=tmp_path / "state"
    )
    for validation in (["b a", "b b"], None):
        with pytest.raises(InputError, match=r"belongs to another training \(validation was"):
            uc.SequenceVAE(**settings).fit(
                documents, validation=validation, checkpoint=tmp_path / "state"
            )


# Vocabularies.


def test_symbols_are_numbered_by_frequency_then_name():
    vocabulary = Vocabulary.of(["b b b a c", "c a d d"], "word", 2, 10)
    assert vocabulary.known == ("b", "a", "c", "d")
    assert (vocabulary.unknown, vocabulary.end, len(vocabulary)) == (4, 5, 6)
    assert Vocabulary.of(["b b b a c", "c a d d"], "word", 2, 2).known == ("b", "a")
    rows = vocabulary.encode(["d x", "a"], max_length=3)
    assert rows.tolist() == [[3, 4, 5, PAD], [1, 5, PAD, PAD]]
    assert vocabulary.decode(rows) == ["d <unk>", "a"]


def test_characters_and_tokens():
    characters = Vocabulary.of(["abba", "a b"], "character", 1, 10)
    assert characters.known == ("a", "b", " ")
    assert characters.decode(characters.encode(["b a", "abz"], 5)) == ["b a", "ab\ufffd"]
    tokens = Vocabulary.of([np.array([7, 7, 0]), [0, 7, 12]], "token", 1, 10)
    assert tokens.known == (7, 0, 12)
    assert [document.tolist() for document in tokens.decode(tokens.encode([[12, 5], [0]], 2))] == [
        [12, -1],
        [0],
    ]


# The estimator.

DOCUMENTS = [
    f"{who} {what} {where}"
    for who in ("ann", "bob", "eve")
    for what in ("ran", "sat")
    for where in ("here", "there now")
] * 12
QUICK = {
    "latent_dim": 2,
    "hidden": (16,),
    "hidden_dim": 12,
    "embedding_dim": 8,
    "max_length": 8,
    "max_epochs": 4,
    "random_state": 0,
}


@pytest.fixture(scope="module")
def fitted():
    return uc.SequenceVAE(**QUICK, batch_size=8, learning_rate=5e-3, verbose=False).fit(DOCUMENTS)


def test_encoders_may_have_sizes_of_their_own(tmp_path):
    sizes = {"encoder_embedding_dim": 3, "encoder_hidden_dim": 5}
    vae = uc.SequenceVAE(**{**QUICK, "max_epochs": 1}, **sizes, verbose=False).fit(DOCUMENTS)
    encoder, history = vae.model_.posterior.encoder, vae.model_.history
    assert not encoder.pooled
    assert (encoder.embedding.embedding_dim, encoder.lstm.hidden_size) == (3, 5)
    assert (history.embedding.embedding_dim, history.lstm.hidden_size) == (
        QUICK["embedding_dim"],
        QUICK["hidden_dim"],
    )
    again = uc.load(vae.save(tmp_path / "run"))
    assert np.array_equal(again.transform(DOCUMENTS), vae.transform(DOCUMENTS))


def test_a_history_may_be_added(tmp_path):
    vae = uc.SequenceVAE(
        **QUICK, context="additive", inverse_lipschitz=(0.5, 0.7), batch_size=8, learning_rate=5e-3
    )
    vae.set_params(verbose=False).fit(DOCUMENTS)
    assert vae.model_.decoder.maps[0].dim == 2
    assert vae.model_.head.weight.shape == (len(vae.vocabulary_) - 1, 12)
    assert vae.history_["validation"].min() < vae.history_["validation"].iloc[0] - 1
    again = uc.load(vae.save(tmp_path / "run"))
    assert np.array_equal(again.score_samples(DOCUMENTS[:20]), vae.score_samples(DOCUMENTS[:20]))
    plain = uc.SequenceVAE(
        **{**QUICK, "max_epochs": 1}, inverse_lipschitz=None, context="additive", verbose=False
    ).fit(DOCUMENTS)
    assert plain.model_.head is None


def test_encoders_may_pool_what_they_read(tmp_path):
    vae = uc.SequenceVAE(**{**QUICK, "max_epochs": 1}, posterior="pooled-lstm", verbose=False).fit(
        DOCUMENTS
    )
    assert vae.model_.posterior.encoder.pooled
    again = uc.load(vae.save(tmp_path / "run"))
    assert again.model_.posterior.encoder.pooled
    assert np.array_equal(again.transform(DOCUMENTS), vae.transform(DOCUMENTS))


@pytest.fixture
def turned(monkeypatch):
    """Training maximizes the loss from step 60 on, so that later epochs are worse anywhere."""
    whole = Elbo.forward

    def turn(self, model, x, step):
        loss, terms = whole(self, model, x, step)
        return Loss(-loss if step > 60 and model.training else loss, terms)

    monkeypatch.setattr(Elbo, "forward", turn)


def test_training_learns(fitted):
    history = fitted.history_
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] - 1


def test_the_best_epoch_is_kept_whole(turned, tmp_path):
    worse = uc.SequenceVAE(
        **{**QUICK, "max_epochs": 6}, batch_size=8, learning_rate=0.02, verbose=False
    ).fit(DOCUMENTS)
    best = worse.history_["validation"].idxmin()
    assert 0 < best < 5
    assert worse.history_["validation"].iloc[best] < worse.history_["validation"].iloc[-1]
    assert not worse.model_.training
    again = uc.load(worse.save(tmp_path / "run"))
    assert np.array_equal(again.score_samples(DOCUMENTS[:20]), worse.score_samples(DOCUMENTS[:20]))
    for name, value in worse.model_.state_dict().items():
        assert torch.equal(again.model_.state_dict()[name], value), name


def test_the_kept_epoch_is_the_one_with_the_best_bound_on_what_was_held_out(turned):
    extra = [f"{who} ran here" for who in ("ann", "bob")] * 5
    vae = uc.SequenceVAE(
        **{**QUICK, "max_epochs": 6}, batch_size=8, learning_rate=0.02, verbose=False
    )
    vae.fit(DOCUMENTS, validation=extra)
    losses = vae.history_["validation"]
    assert losses.idxmin() < 5
    assert validation_loss(vae, extra, Elbo()) == pytest.approx(losses.min(), abs=1e-5)
    assert losses.iloc[-1] > losses.min() + 1e-3


def validation_loss(vae, documents, objective, batch_size=8):
    """As the engine computes it, at the draws that belong to the seed."""
    batches = torch.as_tensor(vae.check_rows(documents)).split(batch_size)
    with seeded(derived_seed(vae.seed_, "validation")), torch.no_grad():
        return sum(
            float(objective(vae.model_, batch, 10**9).value) * len(batch) for batch in batches
        ) / len(documents)


def test_the_best_epoch_is_that_of_the_best_bound_whatever_is_minimized():
    vae = uc.SequenceVAE(
        **QUICK,
        objective={"elbo": {"beta": 0.2, "warmup_steps": 20}},
        batch_size=8,
        learning_rate=0.1,
    )
    vae.set_params(verbose=False).fit(DOCUMENTS, validation=DOCUMENTS[:20])
    assert validation_loss(vae, DOCUMENTS[:20], Elbo()) == pytest.approx(
        vae.history_["validation"].min(), abs=1e-5
    )
    assert (
        validation_loss(vae, DOCUMENTS[:20], Elbo(beta=0.2))
        < vae.history_["validation"].min() - 0.1
    )


def test_after_a_loss_that_is_not_finite_the_best_epoch_is_kept(monkeypatch):
    whole = Elbo.forward

    def spoiled(self, model, x, step):
        loss, terms = whole(self, model, x, step)
        return Loss(loss * (math.nan if step > 60 and model.training else 1.0), terms)

    monkeypatch.setattr(Elbo, "forward", spoiled)
    vae = uc.SequenceVAE(
        **{**QUICK, "max_epochs": 9}, batch_size=8, learning_rate=0.3, verbose=False
    )
    with pytest.raises(uc.NonFiniteLossError, match="after the best of 3 whole epochs"):
        vae.fit(DOCUMENTS, validation=DOCUMENTS[:20])
    assert len(vae.history_) == 3
    assert validation_loss(vae, DOCUMENTS[:20], Elbo()) == pytest.approx(
        vae.history_["validation"].min(), abs=1e-5
    )


def test_documents_in_and_documents_out(fitted):
    Z = fitted.transform(DOCUMENTS[:3])
    assert Z.shape == (3, 2)
    assert fitted.reconstruct(DOCUMENTS[:3]) == fitted.inverse_transform(Z)
    way = fitted.interpolate(DOCUMENTS[0], DOCUMENTS[5], n_steps=4)
    assert [way[0], way[-1]] == fitted.reconstruct([DOCUMENTS[0], DOCUMENTS[5]])
    assert len(way) == 4
    drawn = fitted.sample(50, random_state=0)
    assert drawn == fitted.sample(50, random_state=0) != fitted.sample(50, random_state=1)
    words = {word for document in drawn for word in document.split()}
    assert words <= {*fitted.vocabulary_.known, "<unk>"}
    assert len(set(fitted.sample(50, random_state=0, greedy=True))) < len(set(drawn))


def test_perplexity_is_per_symbol_ends_included(fitted):
    scores = fitted.score_samples(DOCUMENTS[:4])
    n_symbols = sum(len(document.split()) + 1 for document in DOCUMENTS[:4])
    assert fitted.perplexity(DOCUMENTS[:4]) == pytest.approx(
        math.exp(-scores.sum() / n_symbols), rel=1e-6
    )
    assert fitted.score(DOCUMENTS[:4]) == pytest.approx(scores.mean(), rel=1e-6)


def test_a_saved_model_is_the_same_model(fitted, tmp_path):
    again = uc.load(fitted.save(tmp_path / "run"))
    assert again.vocabulary_ == fitted.vocabulary_
    assert np.array_equal(again.transform(DOCUMENTS[:5]), fitted.transform(DOCUMENTS[:5]))
    assert again.sample(5, random_state=3) == fitted.sample(5, random_state=3)
    assert again.history_.columns.tolist() == fitted.history_.columns.tolist()
    assert again.get_params() == {**fitted.get_params(), "device": again.device}


@pytest.mark.parametrize(
    "vocabulary",
    [
        None,
        {"level": "word", "known": ["a", "a", "b"]},
        {"level": "word", "known": ["a b", "c"]},
        {"level": "character", "known": ["ab", "c"]},
        {"level": "token", "known": ["a", "b"]},
        {"level": "word", "known": [1, 2]},
        {"level": "word", "known": ["\ud800", "b"]},
        {"level": "token", "known": [-1, 2]},
    ],
)
def test_a_vocabulary_that_was_tampered_with_is_refused(fitted, tmp_path, vocabulary):
    folder = fitted.save(tmp_path / "run")
    path = folder / "model.json"
    settings = json.loads(path.read_text())
    size = settings["n_features"] - 2
    if vocabulary is not None:
        filler = (
            range(100, 100 + size)
            if isinstance(vocabulary["known"][0], int)
            else [f"x{number}" for number in range(size)]
        )
        vocabulary["known"] = [*vocabulary["known"], *filler][:size]
    path.write_text(json.dumps({**settings, "vocabulary": vocabulary}))
    with pytest.raises(InputError, match="holds a damaged model") as caught:
        uc.load(folder)
    assert "\n" not in str(caught.value)


def test_unknown_tokens_come_back_as_unknown():
    tokens = [np.array([5, 6, 7]), np.array([5, 7])] * 20
    vae = uc.SequenceVAE(**QUICK, verbose=False).fit(tokens)
    assert vae.vocabulary_.known == (5, 7, 6)
    assert np.array_equal(vae.transform([[5, -1]]), vae.transform([[5, 99]]))
    assert -1 not in uc.SequenceVAE(**QUICK, verbose=False).fit([[5, -1, 6]] * 20).vocabulary_.known


def test_tokens_and_characters_train_as_words_do(tmp_path):
    tokens = [np.array([5, 6, 7]), np.array([5, 7])] * 20
    vae = uc.SequenceVAE(**QUICK, verbose=False).fit(tokens)
    assert vae.vocabulary_.level == "token"
    assert all(document.dtype == np.int64 for document in vae.sample(3, random_state=0))
    again = uc.load(vae.save(tmp_path / "run"))
    assert np.array_equal(again.score_samples(tokens[:4]), vae.score_samples(tokens[:4]))
    characters = uc.SequenceVAE(
        **{**QUICK, "max_length": 20}, level="character", verbose=False
    ).fit(DOCUMENTS)
    assert " " in characters.vocabulary_.known
    assert all(len(document) <= 20 for document in characters.sample(3, random_state=0))


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (["a b", ""], "document 1 of X is empty: expected at least one word; remove it"),
        (["a b", "   "], "document 1 of X is empty"),
        (
            ["a b", "a b " * 5],
            "document 1 of X has 10 words, more than max_length=8: raise max_length",
        ),
        (
            ["a a", "a"],
            r"a vocabulary expects at least 2 words that occur 2 times or more, got 1 \('a'\) of 1",
        ),
        (["a b"], "training expects at least 2 documents, got 1"),
        ([], "training expects at least 2 documents, got 0"),
        ("a b a b", "X expects a list of documents, got str"),
        (["a b", b"a b"], "document 1 of X expects a string, like others, got b'a b': decode it"),
        (["a b", "a \ud800"], "document 1 of X holds half a character"),
        (["a b", 3], "document 1 of X expects a string, like others, got 3"),
        (
            [[1, 2], [1, -2]],
            "document 1 of X expects a string, or a sequence of whole numbers >= 0",
        ),
        (
            [[1, 2], [1.5, 2]],
            "document 1 of X expects a string, or a sequence of whole numbers >= 0",
        ),
        (None, "X expects a list of documents, got NoneType"),
        ({"a b": 1}, "X expects a list of documents, got dict"),
        (
            pd.DataFrame({"text": ["a b", "b a"]}),
            "X expects a list of documents, got DataFrame: give strings, such as one column",
        ),
        (np.array(3.0), "X expects a list of documents, got ndarray"),
        (
            [np.array([2**63], dtype=np.uint64), [1]],
            "document 0 of X expects a string, or a sequence of whole numbers",
        ),
    ],
)
def test_documents_that_cannot_be_used_are_refused_and_nothing_is_lost(fitted, documents, message):
    before = fitted.transform(DOCUMENTS[:2])
    with pytest.raises(InputError, match=message) as caught:
        fitted.fit(documents)
    assert "\n" not in str(caught.value)
    assert np.array_equal(fitted.transform(DOCUMENTS[:2]), before)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (
            ["xyz uvw"],
            r"the documents of X hold no word that the vocabulary knows, only \('xyz', 'uvw'\)",
        ),
        ([[1, 2]], "X expects strings, as in training, got arrays of tokens"),
        ([], "X expects at least one document, got none"),
    ],
)
def test_documents_unlike_those_of_the_training_are_refused(fitted, documents, message):
    with pytest.raises(InputError, match=message):
        fitted.transform(documents)


@pytest.mark.slow
def test_documents_on_the_command_line(tmp_path, command_line, short_diagnoses):
    path = tmp_path / "talk.txt"
    path.write_text("\n".join(DOCUMENTS) + "\n")
    settings = [
        f"{key}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for key, value in QUICK.items()
    ]
    code, out, err = command_line("fit", path, *settings, "hidden=[16]", "-o", tmp_path / "run")
    assert (code, err) == (0, "")
    assert f"training on {path}: {len(DOCUMENTS)} documents" in out
    code, out, err = command_line("diagnose", tmp_path / "run", path)
    assert (code, err) == (0, "")
    assert "Report on run: 144 examples, 2 latent units" in out
    assert (tmp_path / "run" / "report.html").is_file()
    for arguments, message in (
        (
            ("fit", path, "--model", "VAE", "-o", tmp_path / "other"),
            "VAE expects rows of numbers, got documents. Use SequenceVAE",
        ),
        (("certify", tmp_path / "run", path), "got sequences. Use diagnose"),
        (
            ("fit", path, "family=gaussian", "-o", tmp_path / "other"),
            "there is no parameter 'family'",
        ),
    ):
        code, _, err = command_line(*arguments)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1
    path.write_bytes(b"ann ran\nbob \xff sat\n")
    code, _, err = command_line("fit", path, "-o", tmp_path / "other")
    assert code == 2
    assert "UTF-8" in err


def test_a_report_on_documents(fitted, tmp_path):
    report = uc.diagnose(fitted, DOCUMENTS[:12], n_importance=64, thorough=False, verbose=False)
    assert report.estimates["nll_nats"].value == pytest.approx(
        -fitted.score(DOCUMENTS[:12]), rel=1e-5
    )
    assert report.gallery.originals[0] in DOCUMENTS
    assert report.estimates["fisher_divergence"].value > 0
    page = report.to_html(tmp_path / "report.html").read_text()
    assert f"<li>{report.gallery.originals[0]}</li>" in page
    with pytest.raises(InputError, match=r"got sequences\. Use diagnose"):
        uc.certify(fitted, DOCUMENTS[:5])


@pytest.mark.slow
@pytest.mark.parametrize("context", ["joint", "additive"])
def test_constants_move_towards_a_wanted_kl(context):
    given = {**QUICK, "context": context, "batch_size": 8, "verbose": False}
    vae = uc.SequenceVAE(**{**given, "max_epochs": 60}, target_kl=1.5, learning_rate=5e-3).fit(
        DOCUMENTS
    )
    reached = infer(vae.model_, vae.check_rows(DOCUMENTS)).kl.mean()
    assert reached == pytest.approx(1.5, abs=0.25)
    assert len(set(vae.inverse_lipschitz_)) == 1
    annealed = uc.SequenceVAE(**given, annealing=True).fit(DOCUMENTS)
    assert all(constant < 5 for constant in annealed.inverse_lipschitz_)


@pytest.mark.parametrize("context", ["joint", "additive"])
def test_there_may_be_more_latent_units_than_frequent_symbols(monkeypatch, context):
    for module in ("estimators.building", "maps.embedding"):
        monkeypatch.setattr(f"uncollapse.{module}.MAX_ROWS_BESIDE_CONTEXT", 3)
    vae = uc.SequenceVAE(
        **{**QUICK, "latent_dim": 5, "max_epochs": 1}, context=context, verbose=False
    ).fit(DOCUMENTS)
    basis = vae.model_.decoder.embedding.basis
    assert torch.allclose(basis.T @ basis, torch.eye(5), atol=1e-5)
