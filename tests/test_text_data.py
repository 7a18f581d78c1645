"""Text files, and text by name."""

import gzip

import numpy as np
import pytest

from uncollapse.data import NAMED, load, read_file
from uncollapse.data.corpora import YAHOO, YELP, load_corpus
from uncollapse.errors import InputError


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
        ("x.txt.gz", gzip.compress(b""), "x.txt.gz holds no text"),
        ("x.txt", b"a\nb\n\nc\n", "x.txt has an empty line 3: .*remove that line"),
        ("x.txt", b"\na\n", "x.txt has an empty line 1"),
        ("x.txt", b"a\n \t\r\nb", "x.txt has an empty line 2"),
        ("x.txt", b"a\n\n", "x.txt has an empty line 2"),
        ("x.txt", b"a\nb \xe4\nc", "x.txt is no UTF-8 in line 2"),
        ("x.txt", b"\xef\xbb\xbfa\n\xe4", "x.txt is no UTF-8 in line 2"),
        ("x.txt", "ä".encode("utf-16"), "x.txt is no UTF-8 in line 1"),
        ("x.txt.gz", gzip.compress(b"a\nb\n\xff"), "x.txt.gz is no UTF-8 in line 3"),
        ("x.txt.gz", b"no gzip", r"x.txt.gz cannot be read as .txt.gz \(.*may be damaged"),
        ("x.txt.gz", gzip.compress(b"a\nb\n")[:-9], r"x.txt.gz cannot be read as .txt.gz"),
        ("x.txt.gz", gzip.compress(b"abcd" * 99)[:12] + bytes(20), r"x.txt.gz cannot be read as .txt.gz"),
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
    with pytest.raises(InputError, match=r"x.txt holds documents and has no part named 'kind': leave the labels out"):
        load(tmp_path / "x.txt", labels="kind")


@pytest.fixture
def local(tmp_path, monkeypatch):
    """A data folder of one's own with two of Yelp's parts, and an empty cache."""
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
        "yelp has no train part on this machine (there is: validation, test): put yelp.train.txt.gz, which is not for download, "
        f"into {local}/yelp."
    )
    with pytest.raises(
        InputError, match=r"yahoo has no validation part on this machine \(there is: none\): put yahoo.valid.txt.gz"
    ):
        load("yahoo", "validation")
    monkeypatch.delenv("UNCOLLAPSE_DATA")
    with pytest.raises(InputError, match=r"into \$UNCOLLAPSE_DATA/yelp"):
        load("yelp", "test")


def test_what_is_not_for_download_is_said_to_be_so(local, command_line, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    assert NAMED["yelp"].whereabouts() == "1 of 3 files missing, not for download: yelp.train.txt.gz"
    code, out, _ = command_line("data", "list")
    assert code == 0
    assert "3 of 3 files missing, not for download: yahoo.train.txt.gz, yahoo.valid.txt.gz, yahoo.test.txt.gz" in out
    code, _, err = command_line("data", "fetch", "yelp")
    assert (code, err) == (2, f"error: yelp.train.txt.gz is neither on this machine nor for download: put it into {local}/yelp.\n")
    (local / "yelp" / "yelp.train.txt.gz").write_bytes(gzip.compress(b"well\n"))
    assert load("yelp").X.tolist() == ["well"]
    assert NAMED["yelp"].whereabouts() == str(local / "yelp")
    assert command_line("data", "fetch", "yelp")[1].endswith("yelp is ready\n")


def test_splits_are_those_of_the_data_set(tmp_path):
    with pytest.raises(InputError, match="split expects one of train, test, got 'validation': these are the parts of digits"):
        load("digits", "validation")
    for name in ("yahoo", "yelp"):
        with pytest.raises(InputError, match=f"one of train, validation, test, got 'valid': these are the parts of {name}"):
            load(name, "valid")
    with pytest.raises(InputError, match="split expects one of train, validation, test, got 'half'"):
        load(tmp_path / "x.txt", "half")
    with pytest.raises(InputError, match="leave them out"):
        load("yelp", labels="kind")


def test_the_command_line_counts_documents(tmp_path, command_line):
    (tmp_path / "x.txt").write_text("a b\nc\n")
    code, out, err = command_line("fit", tmp_path / "x.txt", "-o", tmp_path / "run")
    assert code == 2
    assert out == f"training on {tmp_path / 'x.txt'}: 2 documents\n"
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "first", "n_words", "longest"),
    [
        (
            YAHOO,
            {"validation": "what do you think of _UNK organization ?", "test": "if you were a character from a movie ,"},
            20_000,
            200,
        ),
        (YELP, {"validation": "no common sense !", "test": "husband loves the thin crust pizza ."}, 10_265, 15),
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
    words = {word for documents in parts.values() for document in documents for word in document.split()}
    assert 0.9 * n_words < len(words) <= n_words
    assert max(len(document.split()) for documents in parts.values() for document in documents) == longest
