"""Tests that damaged or hostile files, folders and configurations are refused in one line, without
side effects."""

import bz2
import gzip
import io
import json
import os
import pickle
import resource
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import uncollapse as uc
from fuzz.loading import SMALL, check, refusal, snapshot, targets, write_runs
from uncollapse._utils.errors import brief
from uncollapse._utils.files import write_text
from uncollapse._utils.parameters import check_parameters
from uncollapse._utils.validation import check_count, check_positive
from uncollapse.cli.settings import read_settings
from uncollapse.data import load, read_file
from uncollapse.estimators import Estimator

X = np.arange(12.0).reshape(6, 2)
RUN = ("model.json", "model.safetensors", "history.csv")
KINDS = ("VAE", "MixtureVAE", "SequenceVAE")
MARKER = "executed"


class Explosive:
    def __reduce__(self):
        return os.mkdir, (MARKER,)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Write a folder with a small run of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    write_runs(folder)
    return folder


@pytest.fixture(scope="module")
def table(runs):
    """Return all targets of the fuzzer."""
    return targets(runs)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return a function that makes empty folders, each in a parent of its own that may not
    change."""
    made = iter(range(10**6))

    def make():
        folder = tmp_path / str(next(made)) / "place"
        folder.mkdir(parents=True)
        (folder.parent / "outside").write_text("untouched")
        monkeypatch.chdir(folder)
        return folder

    return make


@pytest.fixture
def here(place):
    """Return one such folder."""
    return place()


@pytest.fixture
def run(here, runs):
    """Return a run that is to be damaged."""
    return copy_run(runs / "VAE", here / "run")


def copy_run(run, folder):
    folder.mkdir()
    for path in run.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def fuzzed(n):
    """Run a property on this many examples, always the same ones."""
    ignored = [
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ]
    return settings(
        max_examples=n,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=ignored,
    )


# Bytes that mean something to one format or another.
PAYLOADS = st.one_of(
    st.binary(max_size=8),
    st.sampled_from(
        [
            *(
                b"\0",
                b"\xff" * 8,
                b"\n",
                b"\r",
                b",",
                b'"',
                b"'",
                b"nan",
                b"inf",
                b"1e400",
                b"-1",
                b"9" * 40,
                b"9" * 5000,
                b"_",
            ),
            *(
                b"PK\x05\x06",
                b"PK\x01\x02",
                b"\x93NUMPY",
                b"PAR1",
                b"\x1f\x8b",
                b"../x",
                b"/etc/passwd",
                b"|O",
                b"<U0",
                b"|V8",
            ),
            *(
                b"(1000000000000000, 2)",
                b"(-1, 2)",
                b"(4294967296, 4294967296)",
                b"[" * 3000,
                b"{" * 3000,
                b"null",
                b"true",
            ),
            *(
                b"&a [*a, *a]",
                b"!!int ''",
                b"!!bool x",
                b"!!python/object/apply:os.mkdir [executed]",
                b": ",
                b"<<: *a",
                b"a: 1\n",
            ),
            *(
                struct.pack("<Q", 2**63),
                struct.pack("<Q", 2**40),
                struct.pack("<I", 2**31),
                "\x85\u2028\ufeff".encode(),
            ),
            pickle.dumps(Explosive()),
        ]
    ),
)
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "replace", "insert", "delete", "cut", "repeat"]),
        st.floats(0, 1),
        st.integers(1, 64),
        PAYLOADS,
    ),
    min_size=1,
    max_size=5,
)


def edited(content, edits):
    """Return the bytes after edits: each has a kind, a place and a length as shares, and a
    payload."""
    for kind, where, length, payload in edits:
        start = int(where * len(content))
        before, middle, after = (
            content[:start],
            content[start : start + length],
            content[start + length :],
        )
        content = {
            "flip": before
            + bytes(byte ^ (1 << length % 8) for byte in middle[:1])
            + middle[1:]
            + after,
            "replace": before + payload + content[start + len(payload) :],
            "insert": before + payload + middle + after,
            "delete": before + after,
            "cut": before,
            "repeat": before + middle * 3 + after,
        }[kind]
    return content


FILES = ("x.npy", "x.npz", "examples of x.npz", "labels of x.npz", "x.csv", "unlabeled x.csv")
TEXTS = ("x.txt", "x.txt.gz", "content of x.txt.gz", "c.yaml", "KEY=VALUE")
PARTS = tuple(f"{name} of {kind}" for kind in KINDS for name in RUN)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*FILES, *TEXTS, *PARTS])
def test_every_seed_is_read(table, here, name):
    assert check(table[name], here, table[name].seed) is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*FILES, *TEXTS, *PARTS])
def test_damaged_files_are_read_or_refused(table, place, name):
    refused = []

    @fuzzed(30 if name in PARTS else 60)
    @given(EDITS)
    def damage(edits):
        refused.append(check(table[name], place(), edited(table[name].seed, edits)) is not None)

    damage()
    assert any(refused)


@pytest.mark.slow
@pytest.mark.extra
def test_damaged_parquet_is_read_or_refused(table, place):
    pytest.importorskip("pyarrow", reason="needs the extra 'parquet'")
    refused = []

    @fuzzed(60)
    @given(EDITS)
    def damage(edits):
        refused.append(
            check(table["x.parquet"], place(), edited(table["x.parquet"].seed, edits)) is not None
        )

    damage()
    assert any(refused)


ODD = st.one_of(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    st.sampled_from(
        [2**31 - 1, 2**31, 2**63, 10**30, 10**400, -1, 0, 1e308, 5e-324, "auto", "full", "\ud800"]
    ),
    st.sampled_from(
        [
            [2**31 - 1] * 3,
            [1] * 3000,
            {"gaussian": {"scale": 0}},
            {"categorical": {"n_categories": 2**31 - 1}},
        ]
    ),
    st.recursive(
        st.integers() | st.text(max_size=4),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner),
    ),
)


def write_settings(run, change):
    """Change a run's settings; JSON knows numbers that Python hardly writes."""
    content = json.loads((run / "model.json").read_text(encoding="utf-8"))
    change(content)
    (run / "model.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_odd_settings_of_runs_are_read_or_refused(runs, place, kind):
    parameters = list(Estimator.registry[kind]().get_params())
    fields = list(json.loads((runs / kind / "model.json").read_text()))

    @fuzzed(50)
    @given(
        st.one_of(
            st.tuples(st.just("parameters"), st.sampled_from(parameters)),
            st.tuples(st.sampled_from(fields)),
        ),
        ODD,
    )
    def change(keys, value):
        run = copy_run(runs / kind, place() / "run")

        def put(content):
            for key in keys[:-1]:
                content = content[key]
            content[keys[-1]] = value

        write_settings(run, put)
        before = snapshot(run.parent.parent)
        refusal(lambda: uc.load(run))
        assert snapshot(run.parent.parent) == before

    change()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_odd_configurations_are_read_or_refused(here, kind):
    parameters = list(Estimator.registry[kind]().get_params())
    written = ODD.filter(lambda value: value != 10**400 and "\ud800" not in str(value))

    @fuzzed(50)
    @given(
        st.dictionaries(
            st.sampled_from(parameters) | st.text(max_size=8) | st.integers(), written, max_size=2
        )
    )
    def configure(content):
        (here / "c.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        refusal(
            lambda: check_parameters(Estimator.registry[kind], read_settings(here / "c.yaml", []))
        )

    configure()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["x.npy", "x.npz", "x.csv", "x.txt", "c.yaml", "model.json", "model.safetensors"]
)
def test_the_command_line_ends_in_one_line_and_code_2(table, place, command_line, name):
    """Input that can be read is refused in the end for its path or its settings."""
    target = table.get(name) or table[f"{name} of VAE"]
    words = {
        "c.yaml": ["fit", "nowhere.npy", "-c", "c.yaml"],
        "model.json": ["diagnose", ".", "nowhere.npy"],
        "model.safetensors": ["diagnose", ".", "nowhere.npy"],
    }.get(name, ["fit", name, "latent_dim=2000000000", "-o", "run"])

    @fuzzed(10)
    @given(EDITS)
    def damage(edits):
        folder = place()
        target.write(folder, edited(target.seed, edits))
        before = snapshot(folder.parent)
        check_refused(command_line, *words)
        assert snapshot(folder.parent) == before

    damage()


def check_refused(command_line, *words):
    """Return the one line of a command that ends with code 2."""
    code, _, err = command_line(*words)
    *notes, error = err.splitlines()
    assert code == 2, err
    assert all(note.startswith("note: ") for note in notes)
    assert error.startswith("error: ")
    assert "error: unexpected" not in error
    assert "Traceback" not in err
    return error


# What the fuzzers have found, and what was thought of beside them.

CHUNK = 2**24


def deflated_zeros(n):
    """Return a raw deflate stream that unpacks to n zeros, a multiple of 16 MiB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    chunk = packer.compress(bytes(CHUNK)) + packer.flush(zlib.Z_FULL_FLUSH)
    return chunk * (n // CHUNK) + packer.flush()


def npy_header(shape, kind="<f8"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": kind, "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def write_bomb(path, packed, method, size):
    """Write an archive with an array that claims to unpack to this size."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("X.npy", packed)
        archive.getinfo("X.npy").compress_type, archive.getinfo("X.npy").file_size = method, size


def peak_memory(call):
    """Return the result of a call, and the peak of the memory that Python allocated."""
    tracemalloc.start()
    result = call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return result, peak


@pytest.mark.parametrize(
    "memory", [2**32, 2**50], ids=["more than memory", "more than data can be"]
)
def test_zip_bombs_are_not_unpacked(here, monkeypatch, memory):
    monkeypatch.setattr("uncollapse._utils.files.memory_bytes", lambda: memory)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    header = packer.compress(npy_header((2**30,))) + packer.flush(zlib.Z_FULL_FLUSH)
    write_bomb("x.npz", header + deflated_zeros(2**33), zipfile.ZIP_DEFLATED, 128 + 2**33)
    assert Path("x.npz").stat().st_size < 10 * 2**20
    sentence, peak = peak_memory(lambda: refusal(lambda: read_file("x.npz")))
    assert "x.npz unpacks to 8 GiB or more, over 200 times its size" in sentence
    assert peak < 10 * 2**20


def test_archives_larger_than_memory_are_not_unpacked(here, monkeypatch):
    monkeypatch.setattr("uncollapse._utils.files.memory_bytes", lambda: 2**20)
    np.savez("x.npz", X=np.zeros((2**18, 1)))
    assert "x.npz takes 0.00195 GiB of memory, and this machine has 0.000977" in refusal(
        lambda: read_file("x.npz")
    )
    np.savez_compressed("x.npz", X=np.zeros((2**18, 1)))
    assert "x.npz takes 0.00195 GiB of memory, and this machine has 0.000977" in refusal(
        lambda: read_file("x.npz")
    )


def test_a_packing_that_zipfile_does_not_bound_is_refused(here):
    packed = bz2.compress(npy_header((10, 2)) + bytes(2**28))
    write_bomb(
        "x.npz", packed, zipfile.ZIP_BZIP2, 288
    )  # 2^28 bytes, in a single step, whatever it claims
    sentence, peak = peak_memory(lambda: refusal(lambda: read_file("x.npz")))
    assert "is not packed as numpy does it" in sentence
    assert peak < 10 * 2**20


def test_gzip_bombs_are_not_kept(here):
    Path("x.txt.gz").write_bytes(gzip.compress(b"")[:10] + deflated_zeros(2**31))
    sentence, peak = peak_memory(lambda: refusal(lambda: read_file("x.txt.gz")))
    assert "x.txt.gz unpacks to 1 GiB or more" in sentence
    assert peak < 20 * 2**20


def test_binary_images_are_no_bombs(here, monkeypatch):
    monkeypatch.setattr("uncollapse._utils.files.UNSUSPECTED_BYTES", 0)
    ink = (np.random.default_rng(0).random((500, 784)) < 0.1).astype(np.float64)
    np.savez_compressed("x.npz", X=ink)
    assert ink.nbytes > 50 * Path("x.npz").stat().st_size
    assert np.array_equal(read_file("x.npz").X, ink)
    np.savez_compressed("x.npz", X=np.zeros_like(ink))
    assert "may be made to fill the memory" in refusal(lambda: read_file("x.npz"))


def test_columns_of_parquet_that_would_fill_the_memory_are_not_read(here):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra 'parquet'")
    import pyarrow as pa

    columns = pa.table({"a": np.zeros(10**7)})
    with parquet.ParquetWriter("x.parquet", columns.schema, compression="zstd") as writer:
        for _ in range(20):
            writer.write_table(columns)
    assert Path("x.parquet").stat().st_size < 2 * 2**20
    assert "x.parquet unpacks to 1.49 GiB or more" in refusal(lambda: read_file("x.parquet"))
    parquet.write_table(
        pa.Table.from_arrays([pa.array([1.0, 2.0])] * 2, names=["a", "a"]), "x.parquet"
    )
    assert "more than one that is called 'a'" in refusal(lambda: read_file("x.parquet"))


def test_what_readers_quote_of_a_file_is_shortened(here):
    np.savez("x.npz", X=np.zeros((1000, 2)))
    content = Path("x.npz").read_bytes()
    length = content.index(b"X.npy") - 4  # of the name in the header of the member
    Path("x.npz").write_bytes(content[:length] + struct.pack("<H", 2000) + content[length + 2 :])
    sentence = refusal(lambda: read_file("x.npz"))
    assert "File name in directory" in sentence
    assert len(sentence) < 600


@pytest.mark.parametrize("shape", [(10**15, 3), (2**32, 2**32), (10**15, 0), (10**6, 10**6)])
def test_headers_of_arrays_that_lie_are_refused(here, shape):
    Path("x.npy").write_bytes(npy_header(shape) + bytes(48))
    assert refusal(lambda: read_file("x.npy")).startswith("x.npy ")
    write_bomb("x.npz", npy_header(shape) + bytes(48), zipfile.ZIP_STORED, 176)
    assert refusal(lambda: read_file("x.npz")).startswith("x.npz ")


def test_a_negative_number_of_rows_is_refused_or_inferred(here):
    """Older versions of NumPy infer it from the size of a file, but not of an archive."""
    rows = np.arange(6.0).reshape(2, 3)
    Path("x.npy").write_bytes(npy_header((-1, 3)) + rows.tobytes())
    sentence = refusal(lambda: read_file("x.npy"))
    if sentence is None:
        assert np.array_equal(read_file("x.npy").X, rows)
    else:
        assert sentence.startswith("x.npy ")
    write_bomb("x.npz", npy_header((-1, 3)) + rows.tobytes(), zipfile.ZIP_STORED, 176)
    assert refusal(lambda: read_file("x.npz")).startswith("x.npz ")


@pytest.mark.parametrize("name", ["../X.npy", "/etc/X.npy", "../../X.npy", "a/../../../X.npy"])
def test_names_in_archives_write_nowhere(here, name):
    buffer = io.BytesIO()
    np.save(buffer, X)
    with zipfile.ZipFile("x.npz", "w") as archive:
        archive.writestr(name, buffer.getvalue())
    before = snapshot(here.parent)
    assert np.array_equal(read_file("x.npz").X, X)  # a name like any other
    assert snapshot(here.parent) == before


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.csv", "x.txt.gz", "c.yaml", *RUN])
def test_pickles_are_not_executed(table, here, name):
    target = table.get(name) or table[f"{name} of VAE"]
    assert check(target, here, pickle.dumps(Explosive())) is not None
    assert not (here / MARKER).exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_csv_may_end_as_they_like(run, end):
    """pandas alone reads without end after two carriage returns and a space."""
    Path("x.csv").write_bytes(f"\ufeffa,b{end}{end} 1,2{end}{end} 3,4{end}".encode())
    assert read_file("x.csv").feature_names == ["a", "b"]
    assert read_file("x.csv").X.tolist() == [[1, 2], [3, 4]]
    Path("x.csv").write_bytes(b",\r\r c")
    assert "more than one that is called ''" in refusal(lambda: read_file("x.csv"))
    (run / "history.csv").write_bytes(b",\r\r c")
    assert "expected numbers in the columns" in refusal(lambda: uc.load(run))


def test_columns_of_one_name_are_refused(here):
    Path("x.csv").write_text("a,b,a\n1,2,3\n4,5,6\n")
    assert refusal(lambda: read_file("x.csv")) == (
        "x.csv expects a name for each column, got more than one that is called 'a': rename them."
    )


def test_whole_numbers_beyond_64_bits_are_numbers(here):
    Path("x.csv").write_text(f"a,b\n{10**30},{2**63}\n{-(10**30)},-2\n")
    assert read_file("x.csv").X.tolist() == [[1e30, 2.0**63], [-1e30, -2.0]]
    Path("x.csv").write_text(f"a,b\n1,{10**400}\n2,2\n")
    assert read_file("x.csv").X[0, 1] == np.inf  # which training refuses
    for exponent, value in {
        2**31: np.inf,
        2**32: np.inf,
        -(2**31): 0.0,
        2549602973: np.inf,
    }.items():  # pandas 2 died of some
        Path("x.csv").write_text(f"a,b\n1,6e{exponent}\n2,2\n")
        assert read_file("x.csv").X[0, 1] == value
    Path("x.csv").write_text("a,b\n1,1_000\n2,2\n")
    assert "text where numbers belong, in 'b'" in refusal(lambda: read_file("x.csv"))


def test_examples_without_a_label_among_others_are_refused(here, runs):
    Path("x.csv").write_text("a,kind\n1,u\n2,\n3,v\n4,\n")
    assert (
        "the labels of x.csv expect one for each example, got 2 missing, the first in row 1: drop"
        in refusal(lambda: read_file("x.csv", labels="kind"))
    )
    np.savez("x.npz", X=X, y=np.array([0, 1, 2, np.nan, 4, 5]))
    assert "got 1 missing, the first in row 3" in refusal(lambda: read_file("x.npz"))
    rows = np.random.default_rng(0).normal(size=(4, 4))
    vae = uc.load(runs / "VAE")
    for labels in ([0, 1, None, 1], ["u", "v", "u", float("nan")], np.array([0, np.nan, 1, 1])):
        assert "labels expect one for each example" in refusal(
            lambda labels=labels: uc.diagnose(vae, rows, labels)
        )


@pytest.mark.parametrize("name", ["a" * 300 + ".npy", "a\0.npy", "\udcff.npy", "nowhere/x.csv"])
def test_names_that_no_file_can_have_are_refused(here, command_line, name):
    assert "there is no file" in refusal(lambda: load(name))
    assert "there is no configuration file" in refusal(lambda: read_settings(Path(name), []))
    assert "holds no saved model" in refusal(lambda: uc.load(name))
    if "\0" in name:  # No system passes a NUL to a command.
        return
    assert "there is no file" in check_refused(command_line, "fit", name)
    check_refused(command_line, "fit", "x.npy", "-c", name)
    check_refused(command_line, "diagnose", name, "x.npy", "--html", name)


def test_a_file_that_is_called_like_a_folder_above_gives_a_run_no_such_name(here):
    for name in ("...npy", "..npy"):
        np.save(name, X)
        assert read_file(name).name == "data"
    np.save(".hidden.npy", X)
    assert read_file(".hidden.npy").name == "hidden"


def test_a_path_with_a_nul_is_refused(here, runs):
    assert "expects no NUL" in refusal(lambda: write_text("a\0", ""))
    assert "expects no NUL" in refusal(lambda: uc.load(runs / "VAE").save("a\0"))


def test_pages_without_a_name_and_links_in_circles_are_refused(here, runs, command_line):
    np.save("x.npy", np.random.default_rng(0).normal(size=(20, 4)))
    assert "expects the path of a page" in check_refused(
        command_line, "compare", "x.npy", "-m", "VAE,LIDVAE", "-o", "."
    )
    Path("circle").symlink_to("circle")
    assert "already exists" in check_refused(
        command_line, "diagnose", runs / "VAE", "x.npy", "--html", "circle"
    )


def test_names_that_are_no_text_can_be_printed_and_written(here, command_line):
    np.save(
        b"\xff.npy".decode("utf-8", "surrogateescape"),
        np.random.default_rng(0).normal(size=(20, 4)),
    )
    code, out, err = command_line("fit", "\udcff.npy", "max_epochs=1", "hidden=8,8")
    assert (code, err) == (0, "")
    assert "training on \\udcff.npy" in out
    assert command_line("diagnose", "runs/?", "\udcff.npy", "--quick", "--n-importance", 8)[0] == 0
    assert write_text("page", "\udcff").read_bytes() == b"\\udcff"


@pytest.mark.parametrize(
    "text",
    [
        *("a: !!int ''", "a: !!float ''", "a: !!bool x", "a: !!timestamp x"),
        *("a: !!python/object/apply:os.mkdir [executed]", "a: " + "[" * 100_000),
    ],
    ids=lambda text: text[:12],
)
def test_values_that_yaml_cannot_read_are_refused(here, command_line, text):
    Path("c.yaml").write_text(text)
    assert "is not valid YAML" in check_refused(command_line, "fit", "x.npy", "-c", "c.yaml")
    assert "value of a cannot be read" in check_refused(
        command_line, "fit", "x.npy", text.replace(": ", "=", 1)
    )
    assert not Path(MARKER).exists()


def test_references_in_yaml_are_not_followed(here, command_line):
    laughs = [
        "a0: &a0 [lol]",
        *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)),
    ]
    Path("c.yaml").write_text("\n".join(laughs))
    assert "references such as *name are not followed" in check_refused(
        command_line, "fit", "x.npy", "-c", "c.yaml"
    )
    assert "cannot be read" in check_refused(command_line, "fit", "x.npy", "hidden=&a [*a]")


HUGE = 16**6000 - 1  # Python refuses to write that many digits


def test_numbers_that_cannot_be_written_are_refused(here, command_line):
    assert brief(HUGE) == "a huge int"
    for key in ("latent_dim", "hidden", "learning_rate", "family", "objective", "random_state"):
        assert "got a huge int" in check_refused(
            command_line, "fit", "x.npy", f"{key}=0x{'f' * 6000}"
        )
    Path("c.yaml").write_text(f"? 0x{'f' * 6000}\n: 1\n")
    assert "there is no parameter" in check_refused(command_line, "fit", "x.npy", "-c", "c.yaml")
    assert (
        refusal(lambda: check_positive("rate", HUGE))
        == "rate expects a positive finite number, got a huge int."
    )
    assert (
        refusal(lambda: check_count("n", -HUGE)) == "n expects a positive integer, got a huge int."
    )


def test_what_was_given_is_shortened_in_messages(here, command_line):
    error = check_refused(command_line, "fit", "x.npy", f"latent_dim={'9' * 4000}")
    assert len(error) < 200
    error = check_refused(command_line, "fit", "x.npy", f"latent_dim={'[' * 90}{']' * 90}")
    assert error == "error: latent_dim expects a positive integer, got [[[[[...]]]]]."
    assert brief([1.5, "a", None]) == "[1.5, 'a', None]"


@pytest.mark.parametrize(
    ("kind", "key", "value", "words"),
    [
        (
            "VAE",
            "hidden",
            [1] * 3000,
            "hidden expects a list of one or more positive widths, at most 100",
        ),
        (
            "VAE",
            "encoder_hidden",
            [1] * 3000,
            "encoder_hidden expects a list of one or more positive widths, at most 100",
        ),
        (
            "VAE",
            "intermediate_dims",
            [2] * 3000,
            "intermediate_dims expects a list of dimensions, which may be empty, at most 100",
        ),
        ("SequenceVAE", "n_layers", 2**31 - 1, "n_layers expects an integer from 1 to 100"),
        (
            "MixtureVAE",
            "n_components",
            2**31 - 1,
            "n_components expects an integer from 2 to 10,000",
        ),
        ("MixtureVAE", "latent_dim", 2**31 - 1, "damaged model"),
    ],
)
def test_sizes_that_would_fill_the_memory_or_take_forever_are_refused(
    here, runs, kind, key, value, words
):
    run = copy_run(runs / kind, here / "run")
    write_settings(
        run, lambda content: content["parameters"].update({key: value, "inverse_lipschitz": None})
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert words in refusal(lambda: uc.load(run))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # in KiB


def test_many_components_take_no_memory_until_their_weights_are_there(here, runs):
    run = copy_run(runs / "MixtureVAE", here / "run")
    write_settings(run, lambda content: content["parameters"].update(n_components=10_000))
    assert "the tensors of model.safetensors are not those that model.json describes" in refusal(
        lambda: uc.load(run)
    )


@pytest.mark.parametrize(
    ("length", "header"),
    [
        (2**63, b"{}"),
        (2**40, b"{}"),
        (2, b"{}"),
        (3, b"[1]"),
        (None, b'{"a":{"dtype":"F32","shape":[1000000000000000],"data_offsets":[0,8]}}'),
        (None, b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,99]}}'),
        (None, b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}'),
        (None, b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}'),
        (None, b'{"../a":{"dtype":"PICKLE","shape":[2],"data_offsets":[0,8]}}'),
        (None, b"{" * 10_000),
    ],
)
def test_headers_of_weights_that_lie_are_refused(run, length, header):
    (run / "model.safetensors").write_bytes(
        struct.pack("<Q", length or len(header)) + header + bytes(8)
    )
    assert "holds a damaged model" in refusal(lambda: uc.load(run))


@pytest.mark.parametrize("name", RUN)
@pytest.mark.parametrize("to", ["/etc/passwd", "/dev/zero", "/nowhere", ".", "pipe", "itself"])
def test_parts_of_runs_that_lead_elsewhere_are_refused(run, name, to):
    (run / name).unlink()
    if to == "pipe":  # which nobody will ever write to
        os.mkfifo(run / name)
    else:
        (run / name).symlink_to(name if to == "itself" else to)
    sentence = refusal(lambda: uc.load(run))
    assert "damaged model" in sentence or "no saved model" in sentence
    assert "root:" not in sentence  # nothing of what stands there


@pytest.mark.parametrize("name", RUN)
def test_parts_of_runs_that_are_larger_than_memory_are_refused(run, name):
    os.truncate(run / name, 2**43)  # of which nothing is on the disk
    assert f"{name} takes 8.19e+03 GiB of memory" in refusal(lambda: uc.load(run))


def test_data_and_configurations_larger_than_memory_are_refused(here, command_line):
    for name in ("x.csv", "x.npy", "x.txt", "c.yaml"):
        Path(name).touch()
        os.truncate(name, 2**43)
    for name in ("x.csv", "x.txt"):
        assert "takes 8.19e+03 GiB of memory" in check_refused(command_line, "fit", name)
    assert "takes 8.19e+03 GiB of memory" in check_refused(
        command_line, "fit", "x.npy", "-c", "c.yaml"
    )
    assert "it does not begin as numpy's files" in check_refused(
        command_line, "fit", "x.npy"
    )  # of which parts are read


def test_saving_does_not_write_through_links(here, runs):
    vae = uc.load(runs / "VAE")
    outside = copy_run(runs / "VAE", here.parent / "victim")
    before = snapshot(here.parent)
    Path("run").symlink_to(outside)
    vae.save("run", overwrite=True)
    assert not Path("run").is_symlink()
    copy_run(runs / "VAE", here / "linked")
    for name in ("model.json", "history.csv", "model.safetensors"):
        Path("linked", name).unlink()
        Path("linked", name).symlink_to(outside / name)
    vae.save("linked", overwrite=True)
    assert not any(path.is_symlink() for path in Path("linked").iterdir())
    assert before.items() <= snapshot(here.parent).items()
    assert np.array_equal(
        uc.load("linked").transform(np.ones((1, 4))), vae.transform(np.ones((1, 4)))
    )


def test_reports_do_not_write_through_links(run, command_line):
    np.save("x.npy", np.random.default_rng(0).normal(size=(20, 4)))
    outside = run.parent.parent / "outside"
    (run / "report.html").symlink_to(outside)
    words = ("diagnose", "run", "x.npy", "--quick", "--n-importance", 8)
    assert "already exists" in check_refused(command_line, *words)
    assert command_line(*words, "--overwrite")[0] == 0
    assert outside.read_text() == "untouched"
    (run / "report.html").unlink()
    (run / "report.html").symlink_to("nowhere")  # is something that is there, too
    assert "already exists" in check_refused(command_line, *words)


def test_a_run_that_is_a_link_can_be_read(here, runs):
    Path("run").symlink_to(runs / "VAE")
    assert uc.load("run").seed_ == SMALL["random_state"]


def test_text_among_labels_does_not_depend_on_the_length_of_a_file(here):
    """pandas guesses types piece by piece by default."""
    kinds = ["1"] * 300_000 + ["u"]
    pd.DataFrame({"a": 0.5, "kind": kinds}).to_csv("x.csv", index=False)
    assert set(map(type, read_file("x.csv", labels="kind").labels)) == {str}
