"""Tests of files in every format, of named data sets, and of the downloader."""

import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import struct
import threading
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from uncollapse._utils.errors import InputError
from uncollapse.data import NAMED, arrays, load, read_file
from uncollapse.data.download import Source
from uncollapse.data.images import load_idx_images, read_idx
from uncollapse.data.omniglot import MAX_BYTES, OMNIGLOT, load_omniglot, read_drawings
from uncollapse.data.synthetic import (
    bayes_accuracy,
    one_cluster,
    pinwheel,
    two_clusters,
    two_gaussians,
)

X = np.arange(12, dtype=float).reshape(4, 3)


def test_every_format_gives_the_same_rows(tmp_path):
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", X=X)
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_csv(tmp_path / "headless.csv", index=False, header=False)
    for name in ("x.npy", "x.npz", "x.csv"):
        assert np.array_equal(read_file(tmp_path / name).X, X), name
    with pytest.warns(UserWarning, match="its first line is read as an example"):
        assert np.array_equal(read_file(tmp_path / "headless.csv").X, X)
    assert load(tmp_path / "x.csv").name == "x"


def test_columns_that_are_counted_are_names_and_an_index_is_left_out(tmp_path):
    pd.DataFrame(X).to_csv(tmp_path / "counted.csv", index=False)
    assert np.array_equal(read_file(tmp_path / "counted.csv").X, X)
    pd.DataFrame(X, columns=["a", "b", "c"]).to_csv(tmp_path / "indexed.csv")
    with pytest.warns(UserWarning, match="counts the rows: it was left out"):
        data = read_file(tmp_path / "indexed.csv")
    assert np.array_equal(data.X, X)
    assert data.feature_names == ["a", "b", "c"]


def test_a_first_example_with_equal_values_is_not_taken_for_names(tmp_path):
    (tmp_path / "x.csv").write_text("1.5,1.5\n2.0,3.0\n")
    with pytest.warns(UserWarning, match="first line is read as an example"):
        assert read_file(tmp_path / "x.csv").X.tolist() == [[1.5, 1.5], [2.0, 3.0]]


@pytest.mark.parametrize(
    ("line", "is_example"),
    [
        ("a,b", False),
        ("0,1,2", False),
        ("country,2019,2020", False),
        ("1.0,,3.0", True),
        ("1,NA,3", True),
        ("5.1,3.5,setosa", True),
        ("3", True),
        ("0", True),
    ],
)
def test_a_first_line_is_names_or_an_example(line, is_example):
    assert arrays._is_example(line.split(",")) == is_example


def test_lines_longer_than_the_header_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,5,6\n")
    with pytest.raises(InputError, match=r"cannot be read as .csv"):
        read_file(tmp_path / "x.csv")


@pytest.mark.extra
def test_parquet_gives_the_same_rows(tmp_path):
    pytest.importorskip("pyarrow", reason="needs the extra 'parquet'")
    pd.DataFrame(X, columns=["a", "b", "c"]).to_parquet(tmp_path / "x.parquet")
    assert np.array_equal(read_file(tmp_path / "x.parquet").X, X)


def test_labels_stay_out_of_the_data(tmp_path):
    pd.DataFrame(X, columns=["a", "b", "c"]).assign(kind=list("uvuv")).to_csv(
        tmp_path / "x.csv", index=False
    )
    data = read_file(tmp_path / "x.csv", labels="kind")
    assert np.array_equal(data.X, X)
    assert data.labels.tolist() == list("uvuv")
    np.savez(tmp_path / "x.npz", images=X, y=[0, 1, 0, 1])
    data = read_file(tmp_path / "x.npz")
    assert np.array_equal(data.X, X)
    assert data.labels.tolist() == [0, 1, 0, 1]


def test_stacks_of_images_are_flattened_and_remember_their_shape(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((5, 4, 3)))
    data = read_file(tmp_path / "images.npy")
    assert data.X.shape == (5, 12)
    assert data.image_shape == (4, 3)


class Explosive:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.npy", None, "there is no file"),
        ("empty.csv", b"", "is empty"),
        ("header.csv", b"a,b\n", "no rows"),
        ("text.csv", b"a,b\n1,red\n2,blue\n", "text where numbers belong, in 'b'.*--labels"),
        ("ragged.csv", b"a,b\n1,2\n1,2,3,4\n", "cannot be read as .csv"),
        ("binary.csv", bytes(range(128, 256)), "cannot be read as .csv"),
        ("broken.npy", b"\x93NUMPY garbage", "cannot be read as .npy"),
        ("broken.npz", b"PK garbage", "cannot be read as .npz"),
        ("pickle.npy", pickle.dumps(Explosive()), "Python objects|cannot be read"),
        ("broken.parquet", b"garbage", "cannot be read as .parquet|needs pyarrow"),
        ("data.xlsx", b"garbage", "there is no data set"),
    ],
)
def test_unreadable_files_are_refused_in_a_sentence(tmp_path, monkeypatch, name, content, words):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        load(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "exploded").exists()


def test_arrays_of_objects_are_not_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("objects.npy", np.array([Explosive()], dtype=object), allow_pickle=True)
    np.savez("objects.npz", X=np.array([Explosive()], dtype=object))
    for name in ("objects.npy", "objects.npz"):
        with pytest.raises(InputError, match="could run code"):
            load(name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("arrays", "labels", "words"),
    [
        ({"a": X, "b": X}, None, "name one of them X"),
        ({"X": X, "y": [1, 2]}, None, r"shape \(4, 3\) with labels of shape \(2,\)"),
        ({"X": X}, "kind", "no array named 'kind'"),
        ({"X": np.array(["a", "b"])[:, None]}, None, "expected real numbers"),
        ({"X": np.zeros(3)}, None, "expected rows with at least one column"),
    ],
)
def test_unsuitable_arrays_are_refused(tmp_path, arrays, labels, words):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=words):
        read_file(tmp_path / "x.npz", labels)


def test_wrong_endings_are_named(tmp_path):
    np.savez(tmp_path / "x.npz", X=X)
    np.save(tmp_path / "y.npy", X)
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    (tmp_path / "y.npy").rename(tmp_path / "y.npz")
    with pytest.raises(InputError, match=r"archive of arrays.*rename it to .npz"):
        read_file(tmp_path / "x.npy")
    with pytest.raises(InputError, match=r"one array.*rename it to .npy"):
        read_file(tmp_path / "y.npz")


def test_unknown_names_and_splits_are_refused():
    with pytest.raises(InputError, match=r"no data set 'fashion'.*digits, fashion-mnist, mnist"):
        load("fashion")
    with pytest.raises(InputError, match="split expects one of train, test, got 'half'"):
        load("digits", "half")


def test_digits_are_split_without_overlap():
    train, test = load("digits"), load("digits", "test")
    assert len(train.X) + len(test.X) == 1797
    assert train.X.min() == 0
    assert train.X.max() == 1
    assert not {row.tobytes() for row in train.X} & {row.tobytes() for row in test.X}


def idx(array):
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def upstream(tmp_path, monkeypatch):
    """Serve a data set from a local server, with an empty cache and data folder."""
    monkeypatch.setenv("UNCOLLAPSE_DATA", str(tmp_path / "local"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    served = tmp_path / "served"
    served.mkdir()
    images = np.arange(2 * 3 * 4).reshape(2, 3, 4) * 10
    files = {
        "t10k-images-idx3-ubyte.gz": idx(images),
        "t10k-labels-idx1-ubyte.gz": idx(np.array([7, 8])),
    }
    for name, content in files.items():
        (served / name).write_bytes(content)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Source("tiny", f"http://127.0.0.1:{server.server_port}/", md5), served
        server.shutdown()


def test_files_are_fetched_once_and_checked(upstream):
    source, served = upstream
    data = load_idx_images("tiny", source, "test")
    assert data.X.shape == (2, 12)
    assert data.X[1, 11] == np.float32(230 / 255)
    assert data.labels.tolist() == [7, 8]
    assert data.image_shape == (3, 4)
    for path in served.iterdir():
        path.unlink()
    assert load_idx_images("tiny", source, "test").labels.tolist() == [7, 8]


def test_a_file_with_another_hash_is_refused(upstream):
    source, served = upstream
    (served / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(np.array([1, 2])))
    with pytest.raises(InputError, match="could not be fetched"):
        load_idx_images("tiny", source, "test")


def test_local_files_come_first(upstream, tmp_path):
    source, _ = upstream
    (tmp_path / "local" / "tiny").mkdir(parents=True)
    (tmp_path / "local" / "tiny" / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(np.array([3, 4])))
    assert load_idx_images("tiny", source, "test").labels.tolist() == [3, 4]


def test_an_unreachable_server_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("UNCOLLAPSE_DATA", str(tmp_path))
    source = Source("tiny", "http://127.0.0.1:9/", {"t10k-images-idx3-ubyte.gz": "0" * 32})
    with pytest.raises(
        InputError,
        match=f"could not be fetched from http://127.0.0.1:9/.*put the file into {tmp_path}",
    ):
        source.fetch("t10k-images-idx3-ubyte.gz")


def test_images_and_labels_must_match(upstream):
    source, served = upstream
    labels = idx(np.array([1, 2, 3]))
    (served / "t10k-labels-idx1-ubyte.gz").write_bytes(labels)
    source.md5["t10k-labels-idx1-ubyte.gz"] = hashlib.md5(labels).hexdigest()
    with pytest.raises(InputError, match=r"images of shape \(2, 3, 4\) and labels of shape \(3,\)"):
        load_idx_images("tiny", source, "test")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        gzip.compress(b"", mtime=0),
        gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x09abc", mtime=0),
    ],
    ids=["empty", "garbage", "no header", "too short"],
)
def test_damaged_idx_files_are_refused(tmp_path, content):
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        read_idx(tmp_path / "x.gz")


def png(ink):
    """Return a drawing in upstream's format: black ink on white, one bit a pixel."""
    buffer = io.BytesIO()
    Image.fromarray(~ink).save(buffer, "PNG")
    return buffer.getvalue()


def drawing(number):
    """Return a drawing with ink on 15 x number pixels, so that the ink tells the number."""
    ink = np.zeros((105, 105), dtype=bool)
    ink[:15, :number] = True
    return png(ink)


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def drawings(top, *characters):
    return {
        f"{top}/{character}/0001_{k:02d}.png": drawing(k)
        for character in characters
        for k in range(1, 21)
    }


@pytest.fixture
def tiny_omniglot(tmp_path, monkeypatch):
    """Write two alphabets with three characters, one of them in both files."""
    monkeypatch.setenv("UNCOLLAPSE_DATA", str(tmp_path))
    (tmp_path / "tiny").mkdir()
    write_zip(tmp_path / "tiny" / "1.zip", drawings("1", "Greek/character01", "Korean/character01"))
    write_zip(
        tmp_path / "tiny" / "2.zip", drawings("2", "Korean/character01", "Korean/character02")
    )
    return Source("tiny", "http://127.0.0.1:9/", {"1.zip": "0" * 32, "2.zip": "0" * 32})


def test_drawings_are_split_by_number_and_counted_once(tiny_omniglot, tmp_path):
    for split, numbers in {"train": range(1, 17), "test": range(17, 21)}.items():
        data = load_omniglot(tiny_omniglot, 3, split)
        assert np.allclose(data.X.sum(axis=1) * 3.75**2 / 15, [*numbers] * 3)
        assert data.labels.tolist() == ["Greek"] * len(numbers) + ["Korean"] * 2 * len(numbers)
        assert data.image_shape == (28, 28)
        assert data.X.dtype == np.float32
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["1.zip", "2.zip", "tiny"]


def test_drawings_are_reduced_by_averaging_areas(tmp_path):
    ink = np.zeros((105, 105), dtype=bool)
    ink[3, 3] = True  # shared by four areas of 3.75 x 3.75 pixels
    ink[-15:, -15:] = True  # covers sixteen
    write_zip(tmp_path / "x.zip", {"x/Greek/character01/0001_01.png": png(ink)})
    reduced = read_drawings(tmp_path / "x.zip", range(1, 2))["Greek", "character01", 1]
    expected = np.zeros((28, 28))
    expected[:2, :2] = np.outer([0.75, 0.25], [0.75, 0.25]) / 3.75**2
    expected[-4:, -4:] = 1
    assert np.allclose(reduced, expected, atol=1e-7)
    assert reduced.max() == 1


def test_missing_and_contradictory_drawings_are_refused(tiny_omniglot, tmp_path):
    with pytest.raises(InputError, match="expects 64 drawings in its train part, got 48"):
        load_omniglot(tiny_omniglot, 4, "train")
    files = drawings("2", "Korean/character01", "Korean/character02")
    write_zip(
        tmp_path / "tiny" / "2.zip", {**files, "2/Korean/character01/0001_17.png": drawing(3)}
    )
    assert len(load_omniglot(tiny_omniglot, 3, "train").X) == 48
    with pytest.raises(
        InputError, match=r"2.zip holds another drawing \('Korean', 'character01', 17\)"
    ):
        load_omniglot(tiny_omniglot, 3, "test")


def bomb(side):
    """Return a PNG that claims this size and holds nothing."""
    content = bytearray(drawing(1))
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zipfile.crc32(content[12:29]))
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"garbage", "cannot identify image file"),
        (drawing(1)[:-40], "cannot be read as a zip of drawings"),
        (png(np.zeros((28, 28), dtype=bool)), "28 x 28 pixels, not 105 x 105"),
        (bomb(10_000), "decompression bomb"),
        (bomb(100_000), "decompression bomb"),
        (bytes(MAX_BYTES + 1), "has 11026 bytes, more than 11025"),
    ],
    ids=["not a PNG", "cut off", "small", "large", "huge", "many bytes"],
)
def test_damaged_and_hostile_drawings_are_refused(tmp_path, content, words):
    write_zip(tmp_path / "x.zip", {"x/Greek/character01/0001_01.png": content})
    with pytest.raises(InputError, match=words) as caught:
        read_drawings(tmp_path / "x.zip", range(1, 17))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda x: b"",
        lambda x: b"PK garbage",
        lambda x: x[:-30],
        lambda x: x[:80] + bytes(9) + x[89:],
    ],
)
def test_damaged_zips_are_refused(tmp_path, damage):
    write_zip(tmp_path / "x.zip", {"x/Greek/character01/0001_01.png": drawing(1)})
    (tmp_path / "x.zip").write_bytes(damage((tmp_path / "x.zip").read_bytes()))
    with pytest.raises(
        InputError, match=r"cannot be read as a zip of drawings.*delete it and fetch it again"
    ):
        read_drawings(tmp_path / "x.zip", range(1, 17))


def test_files_of_a_zip_that_are_no_drawings_are_left_alone(tmp_path):
    write_zip(
        tmp_path / "x.zip",
        {"../Greek/0001_01.png": b"", "/tmp/Greek/character01/0001_01.png": b"", "x/readme": b""},
    )
    assert read_drawings(tmp_path / "x.zip", range(1, 17)) == {}


@pytest.mark.slow
@pytest.mark.skipif(
    any(OMNIGLOT.find(name) is None for name in OMNIGLOT.md5),
    reason="Omniglot is not on this machine (UNCOLLAPSE_DATA)",
)
def test_omniglot_is_whole():
    train, test = load("omniglot"), load("omniglot", "test")
    assert train.X.shape == (242 * 16, 784)
    assert test.X.shape == (242 * 4, 784)
    characters = {
        "Balinese": 24,
        "Early_Aramaic": 22,
        "Greek": 24,
        "Japanese_(katakana)": 47,
        "Korean": 40,
        "Latin": 26,
        "Sanskrit": 42,
        "Tagalog": 17,
    }
    for data, n_drawings in ((train, 16), (test, 4)):
        assert dict(zip(*np.unique(data.labels, return_counts=True), strict=True)) == {
            alphabet: count * n_drawings for alphabet, count in characters.items()
        }
        assert data.X.mean() == pytest.approx(0.08, abs=0.005)  # a few strokes on an empty sheet
        assert data.X.min() == 0
        assert data.X.max() == 1
        assert (data.X.max(axis=1) > 0.5).all()
    assert not {row.tobytes() for row in train.X} & {row.tobytes() for row in test.X}


@pytest.mark.parametrize("sigma", [2.0, 7.5])
def test_two_gaussians_have_their_means_covariances_and_bayes_accuracy(sigma):
    data = two_gaussians(sigma)
    assert np.bincount(data.labels).tolist() == [10_000, 10_000]
    assert 4800 < data.labels[:10_000].sum() < 5200  # shuffled
    for label, mean in enumerate([0, 10]):
        rows = data.X[data.labels == label]
        assert np.allclose(rows.mean(axis=0), mean, atol=5 * sigma / 100)
        assert np.allclose(np.cov(rows.T) / sigma**2, np.eye(2), atol=0.07)
    correct = (data.X.sum(axis=1) > 10) == data.labels
    assert correct.mean() == pytest.approx(bayes_accuracy(sigma), abs=0.012)


def test_bayes_accuracy_of_k23():
    assert bayes_accuracy(7.5) == pytest.approx(0.827, abs=5e-4)
    assert bayes_accuracy(1e9) == pytest.approx(0.5)


def test_arms_of_the_pinwheel_bend_as_they_should():
    data = pinwheel(2000, tangential_scale=1e-9)
    assert np.bincount(data.labels).tolist() == [2000] * 5
    points = (data.X[:, 0] + 1j * data.X[:, 1]) / 10
    radius = np.abs(points)
    outer = radius > 0.01  # the others may lie on the far side of the center
    assert outer.mean() > 0.99
    bend = points * np.exp(-1j * (2 * np.pi * data.labels / 5 + 0.25 * np.exp(radius)))
    on_arm = np.abs(bend[outer] - radius[outer]) < 1e-5
    assert on_arm.mean() > 0.998  # one in 2,300 radii is negative
    assert radius.mean() == pytest.approx(1, abs=0.02)
    assert radius.std() == pytest.approx(0.3, abs=0.01)


def test_arms_of_the_pinwheel_are_as_wide_as_they_should_be():
    data = pinwheel(20_000, radial_scale=1e-9, tangential_scale=0.05, n_classes=3, scale=1.0)
    turned = (data.X[:, 0] + 1j * data.X[:, 1]) * np.exp(
        -1j * (2 * np.pi * data.labels / 3 + 0.25 * np.e)
    )
    assert np.allclose(turned.real, 1, atol=1e-6)
    assert turned.imag.std() == pytest.approx(0.05, abs=0.001)


def test_clusters_have_their_means_and_covariances():
    one, two = one_cluster(20_000), two_clusters(20_000, separation=8.0)
    assert set(one.labels) == {0}
    assert np.bincount(two.labels) / 20_000 == pytest.approx(0.5, abs=0.02)
    for rows, mean in ((one.X, 0), (two.X[two.labels == 0], -4), (two.X[two.labels == 1], 4)):
        assert np.allclose(rows.mean(axis=0), mean, atol=0.05)
        assert np.allclose(np.cov(rows.T), np.eye(2), atol=0.07)


@pytest.mark.parametrize(
    "draw", [functools.partial(two_gaussians, 1.0, 50), pinwheel, one_cluster, two_clusters]
)
def test_seeds_repeat_and_differ(draw):
    assert np.array_equal(draw(seed=3).X, draw(seed=3).X)
    assert not np.array_equal(draw(seed=3).X, draw(seed=4).X)


def test_the_pinwheel_has_a_training_and_a_test_part():
    train, test = load("pinwheel"), load("pinwheel", "test")
    assert len(train.X) == len(test.X) == 5000
    assert not {row.tobytes() for row in train.X} & {row.tobytes() for row in test.X}
    assert NAMED["pinwheel"].fetch() == []
    assert NAMED["pinwheel"].whereabouts() == "needs no files"


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: two_gaussians(0), "sigma expects a positive finite number, got 0"),
        (lambda: two_gaussians(True), "sigma expects a positive finite number, got True"),
        (lambda: two_gaussians("1"), "sigma expects a positive finite number, got '1'"),
        (lambda: two_gaussians(1.0, 0), "n_per_class expects a positive integer, got 0"),
        (lambda: two_gaussians(1.0, seed=-1), "seed expects an integer"),
        (lambda: bayes_accuracy(float("nan")), "sigma expects a positive finite number, got nan"),
        (lambda: pinwheel(rate=float("inf")), "rate expects a positive finite number, got inf"),
        (
            lambda: pinwheel(radial_scale=-1),
            "radial_scale expects a positive finite number, got -1",
        ),
        (lambda: pinwheel(1.5), "n_per_class expects a positive integer, got 1.5"),
        (lambda: pinwheel(n_classes=0), "n_classes expects a positive integer, got 0"),
        (lambda: pinwheel(seed=2**32), "seed expects an integer"),
        (lambda: one_cluster(0), "n expects a positive integer, got 0"),
        (lambda: one_cluster(seed=0.5), "seed expects an integer"),
        (lambda: two_clusters(separation=0), "separation expects a positive finite number, got 0"),
        (lambda: two_clusters(-1), "n expects a positive integer, got -1"),
        (lambda: two_clusters(seed=None), "seed expects an integer"),
    ],
)
def test_unsuitable_arguments_of_synthetic_data_are_refused(draw, words):
    with pytest.raises(InputError, match=words):
        draw()
