"""Data that stay on disk: every row is met once in each epoch, and the model is as good as with all of it in memory."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import uncollapse as uc
from uncollapse.data import StoredArray, StoredParquet, read_file
from uncollapse.data import stored as stored_data
from uncollapse.errors import InputError
from uncollapse.estimators import stored as estimators_stored
from uncollapse.training import rows as training_rows
from uncollapse.training.rows import RowsOnDisk

SMALL = {"latent_dim": 2, "hidden": (16,), "max_epochs": 3, "batch_size": 50, "random_state": 0, "verbose": False}


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 10 rows of 4 columns of 8 bytes, and buffers of 5 of them."""
    monkeypatch.setattr(stored_data, "BLOCK_BYTES", 320)
    monkeypatch.setattr(training_rows, "BUFFER_BYTES", 800)
    monkeypatch.setattr(estimators_stored, "MAX_IN_MEMORY", 0)


def on_disk(tmp_path, X):
    np.save(tmp_path / "x.npy", X)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def numbered(tmp_path, n=123):
    return on_disk(tmp_path, np.arange(4.0 * n).reshape(n, 4))


def test_blocks_are_the_rows_in_their_order(tmp_path, small_blocks):
    X = numbered(tmp_path)
    stored = StoredArray(X)
    assert stored.shape == (123, 4)
    assert list(stored.sizes) == [10] * 12 + [3]
    assert np.array_equal(np.concatenate(list(stored.blocks())), X)
    assert not isinstance(stored.read(0), np.memmap)


def test_each_epoch_meets_every_row_once_in_another_order(tmp_path, small_blocks):
    X = numbered(tmp_path)
    rows = RowsOnDisk(StoredArray(X), 16, seed=0, some=np.asarray(X[:5], np.float32))
    orders = []
    for epoch in (0, 1, 0):
        batches = list(rows.batches(epoch))
        assert [len(batch) for batch in batches] == [16] * 7 + [11]
        assert len(batches) == rows.n_batches
        orders.append(torch.cat(batches)[:, 0] / 4)
    assert sorted(orders[0].tolist()) == sorted(orders[1].tolist()) == list(range(123))
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])
    # Rows of a batch come from many blocks, and neighbours in the file are not neighbours in a batch.
    assert len(set((orders[0][:16] // 10).tolist())) >= 3
    assert (orders[0].diff().abs() == 1).float().mean() < 0.1


@pytest.mark.parametrize("start", [1, 3, 4, 7])
def test_an_epoch_goes_on_from_any_batch(tmp_path, small_blocks, start):
    X = numbered(tmp_path)
    rows = RowsOnDisk(StoredArray(X), 16, seed=0, some=np.asarray(X[:5], np.float32))
    assert torch.equal(torch.cat(list(rows.batches(2, start))), torch.cat(list(rows.batches(2))[start:]))


def test_a_model_of_data_on_disk_is_as_good_as_of_data_in_memory(tmp_path, small_blocks):
    chance = np.random.default_rng(0)
    X = np.sort(chance.normal(size=(2000, 1)), 0) @ chance.normal(size=(1, 4)) + 0.1 * chance.normal(size=(2000, 4))
    in_memory = uc.VAE(**SMALL).fit(X)
    from_disk = uc.VAE(**SMALL).fit(on_disk(tmp_path, X))
    assert from_disk.n_features_in_ == 4
    assert from_disk.score(X) == pytest.approx(in_memory.score(X), abs=0.1)
    again = uc.VAE(**SMALL).fit(on_disk(tmp_path, X))
    assert all(torch.equal(a, b) for a, b in zip(from_disk.model_.parameters(), again.model_.parameters(), strict=True))


def test_mixtures_learn_from_disk(tmp_path, small_blocks, blobs):
    settings = {**SMALL, "max_epochs": 100, "hidden": (64, 64), "batch_size": 30}
    mixture = uc.MixtureVAE(3, **settings).fit(on_disk(tmp_path, blobs[0]))
    assert len(set(mixture.predict(blobs[0]))) == 3


@pytest.mark.extra
def test_a_folder_of_parquet_is_read_by_row_groups(tmp_path):
    frames = [pd.DataFrame({"a": np.arange(25) + 25 * part, "b": 0.5, "label": "x"}) for part in range(3)]
    for part, frame in enumerate(frames):
        frame.to_parquet(tmp_path / f"part-{part}.parquet", row_group_size=10)
    with pytest.raises(InputError, match="something else than numbers in the column 'label'"):
        StoredParquet(tmp_path)
    stored = StoredParquet(tmp_path, leave_out="label")
    assert list(stored.sizes) == [10, 10, 5] * 3
    assert stored.feature_names == ["a", "b"]
    assert sorted(np.concatenate(list(stored.blocks()))[:, 0]) == list(range(75))
    vae = uc.VAE(**SMALL).fit(stored)
    assert vae.feature_names_in_.tolist() == ["a", "b"]
    assert vae.transform(frames[0][["a", "b"]]).shape == (25, 2)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda X: X.__setitem__((57, 1), np.nan), r"got 1 NaN.*Rows are counted from 50 on"),
        (lambda X: X.__setitem__((57, 1), -1.0), r"Rows are counted from 50 on"),
    ],
)
def test_bad_rows_are_found_before_training(tmp_path, small_blocks, change, complaint):
    X = np.ones((123, 4))
    change(X)
    with pytest.raises(InputError, match=complaint):
        uc.VAE(**SMALL, family="poisson").fit(on_disk(tmp_path, X))


def test_lagging_needs_rows_that_it_can_hold_out(tmp_path, small_blocks):
    with pytest.raises(InputError, match="strategy 'lagging' holds out rows"):
        uc.VAE(**SMALL, strategy="lagging").fit(numbered(tmp_path))


def test_an_interrupted_training_on_data_on_disk_goes_on(tmp_path, small_blocks, monkeypatch):
    import os
    import signal

    from uncollapse.interrupts import Terminated
    from uncollapse.training import engine

    X = numbered(tmp_path)
    whole = uc.VAE(**SMALL).fit(X)
    original = engine.Training.on_train_batch_end

    def terminating(self, *args):
        if self.steps_done == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)

    monkeypatch.setattr(engine.Training, "on_train_batch_end", terminating)
    with pytest.raises(Terminated):
        uc.VAE(**SMALL).fit(X, checkpoint=tmp_path / "state")
    monkeypatch.undo()
    monkeypatch.setattr(stored_data, "BLOCK_BYTES", 320)
    monkeypatch.setattr(training_rows, "BUFFER_BYTES", 800)
    monkeypatch.setattr(estimators_stored, "MAX_IN_MEMORY", 0)
    again = uc.VAE(**SMALL).fit(X, checkpoint=tmp_path / "state")
    assert all(torch.equal(a, b) for a, b in zip(whole.model_.parameters(), again.model_.parameters(), strict=True))


def parquet_folder(folder, n_parts=3):
    """25 rows in each part, in row groups of 10."""
    folder.mkdir()
    chance = np.random.default_rng(0)
    for part in range(n_parts):
        values = chance.normal(size=(25, 1)) @ [[3.0, 1.0, 2.0]] + chance.normal(size=(25, 3))
        frame = pd.DataFrame(values, columns=["a", "b", "c"]).assign(group=chance.choice(["x", "y"], 25))
        frame.to_parquet(folder / f"part-{part}.parquet", row_group_size=10)


@pytest.mark.extra
def test_a_folder_is_fitted_and_diagnosed_on_the_command_line(tmp_path, command_line, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parquet_folder(tmp_path / "table")
    code, out, err = command_line("fit", "table", "--labels", "group", "max_epochs=3", "hidden=8,8", "random_state=0")
    assert (code, err) == (0, "")
    assert "training on table: 75 rows, 3 features" in out
    assert uc.load("runs/table").feature_names_in_.tolist() == ["a", "b", "c"]
    code, out, err = command_line("diagnose", "runs/table", "table", "--labels", "group", "--quick")
    assert (code, err) == (0, "")
    code, out, err = command_line("fit", "table", "--overwrite")
    assert code == 2
    assert "something else than numbers in the column 'group'" in err
    (tmp_path / "empty").mkdir()
    code, out, err = command_line("fit", "empty")
    assert code == 2
    assert "empty is a folder without Parquet files" in err


def test_a_large_array_of_a_file_stays_on_disk(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.ones((100, 3, 4)))
    assert not isinstance(read_file(tmp_path / "x.npy").X, np.memmap)
    monkeypatch.setattr("uncollapse.data.arrays.MAX_IN_MEMORY", 1000)
    data = read_file(tmp_path / "x.npy")
    assert isinstance(data.X, np.memmap)
    assert (data.X.shape, data.image_shape) == ((100, 12), (3, 4))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_the_memory_of_a_training_does_not_grow_with_its_data(tmp_path):
    """300 MB and 600 MB, of which a process holds as much."""
    code = (
        "import re, sys, numpy as np, uncollapse as uc; X = np.load(sys.argv[1], mmap_mode='r'); "
        "uc.VAE(latent_dim=2, hidden=(8,), max_epochs=1, batch_size=2000, random_state=0, verbose=False).fit(X); "
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) // 1024)"
    )
    peaks = []
    for n in (300_000, 600_000):
        X = np.lib.format.open_memmap(tmp_path / f"{n}.npy", "w+", np.float32, (n, 250))
        X[:] = np.arange(n, dtype=np.float32)[:, None] % 7
        X.flush()
        done = subprocess.run([sys.executable, "-c", code, tmp_path / f"{n}.npy"], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert abs(peaks[1] - peaks[0]) < 100
