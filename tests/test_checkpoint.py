"""Tests that interrupted trainings resume bit for bit, and that no file is ever half-written."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import uncollapse as uc
from uncollapse._utils.errors import InputError
from uncollapse._utils.files import remove_folder
from uncollapse._utils.signals import Terminated, deferred_interrupt
from uncollapse.data import load
from uncollapse.training import loop
from uncollapse.training.resume import Checkpoint

SMALL = {
    "latent_dim": 2,
    "hidden": (8, 8),
    "max_epochs": 4,
    "batch_size": 32,
    "random_state": 0,
    "verbose": False,
}
TINY_TEXT = {
    "hidden": (8,),
    "embedding_dim": 8,
    "hidden_dim": 8,
    "word_dropout": 0.2,
    "batch_size": 16,
}
KINDS = {
    "vae": (uc.VAE, {}),
    "annealed": (uc.VAE, {"annealing": True}),
    "rate target": (uc.VAE, {"target_kl": 2.0}),
    "lagging": (uc.VAE, {"strategy": {"lagging": {"max_steps": 20}}}),
    "semi-amortized": (uc.VAE, {"strategy": {"semi_amortized": {"n_steps": 2}}}),
    "its own network": (uc.VAE, {"objective": "latent_reconstruction"}),
    "two phases": (uc.MixtureVAE, {"n_components": 3}),
    "text": (uc.SequenceVAE, TINY_TEXT),
}


def data_of(kind, blobs):
    return list(load("synthetic-text").X[:120]) if KINDS[kind][0] is uc.SequenceVAE else blobs[0]


def estimator(kind, **changes):
    cls, arguments = KINDS[kind]
    return cls(**{**SMALL, **arguments, **changes})


def weights(fitted):
    return torch.cat([value.flatten().double() for value in fitted.model_.state_dict().values()])


@pytest.fixture
def stopping(monkeypatch):
    """Return a list; its number is the step after which a signal is sent."""
    original, due = loop.Training._take_step, []

    def with_signal(self, rows):
        if due and self.settings.step_offset + self.steps_done + 1 >= due[0]:
            due.pop()
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, rows)

    monkeypatch.setattr(loop.Training, "_take_step", with_signal)
    return due


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_training_ends_in_the_same_parameters(kind, blobs, tmp_path, stopping):
    """Interrupt within an epoch, at the end of one, twice in one epoch, and after the last step."""
    X = data_of(kind, blobs)
    whole = estimator(kind).fit(X)
    n_steps = 6 if kind in ("vae", "annealed") else 5
    for stop in (3, n_steps, n_steps + 1, 2 * n_steps + 2, 10**6):
        stopping[:] = [stop]
        again = estimator(kind)
        try:
            again.fit(X, checkpoint=tmp_path / "state")
        except Terminated:
            continue
    stopping.clear()
    again = estimator(kind).fit(X, checkpoint=tmp_path / "state")
    assert torch.equal(weights(again), weights(whole))
    columns = [name for name in whole.history_ if name != "seconds"]
    assert again.history_[columns].equals(whole.history_[columns])
    log = [json.loads(line) for line in (tmp_path / "state" / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log] == [0, 1, 2, 3]
    assert np.allclose([row["loss"] for row in log], whole.history_["loss"], rtol=1e-6)
    assert np.allclose([row["kl"] for row in log], whole.history_["kl"], rtol=1e-6)


def test_a_training_without_a_seed_resumes_with_the_first_seed(blobs, tmp_path, stopping):
    """Without a seed, a training resumes with the seed of the one that was begun."""
    stopping[:] = [3]
    with pytest.raises(Terminated):
        estimator("vae", random_state=None).fit(blobs[0], checkpoint=tmp_path)
    resumed = estimator("vae", random_state=None).fit(blobs[0], checkpoint=tmp_path)
    whole = estimator("vae", random_state=resumed.seed_).fit(blobs[0])
    assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.parametrize(
    ("changes", "rows", "complaint"),
    [
        ({"latent_dim": 3}, slice(None), "latent_dim was 2 and is 3"),
        ({"random_state": 1}, slice(None), "seed was 0 and is 1"),
        ({"precision": "bfloat16"}, slice(None), "precision was 'float32' and is 'bfloat16'"),
        ({}, slice(1, None), "digest was '.*' and is"),
    ],
)
def test_the_state_of_another_training_is_refused(
    changes, rows, complaint, blobs, tmp_path, stopping
):
    stopping[:] = [3]
    with pytest.raises(Terminated):
        estimator("vae").fit(blobs[0], checkpoint=tmp_path)
    with pytest.raises(
        InputError,
        match=rf"{tmp_path} belongs to another training \({complaint}.*\)\. Use the original",
    ):
        estimator("vae", **changes).fit(blobs[0][rows], checkpoint=tmp_path)


class Explosive:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("damage", ["cut", "flipped", "hostile", "no object"])
def test_a_damaged_or_hostile_state_is_refused_in_one_line(damage, blobs, tmp_path, stopping):
    """A hostile pickle with a valid checksum is refused as well."""
    stopping[:] = [3]
    with pytest.raises(Terminated):
        estimator("vae").fit(blobs[0], checkpoint=tmp_path)
    path = tmp_path / "training.state.pt"
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:1000])
    elif damage == "flipped":
        path.write_bytes(content[:9] + b"\xff" + content[10:])
    elif damage == "hostile":
        folder = Checkpoint(tmp_path)
        folder.identity = json.loads((tmp_path / "training.json").read_text())
        buffer = io.BytesIO()
        torch.save({"model": Explosive(tmp_path / "exploded")}, buffer)
        payload = buffer.getvalue()
        path.write_bytes(folder._checksum("training", payload) + payload)
    else:
        (tmp_path / "training.json").write_text("[]")
    with pytest.raises(
        InputError, match=f"damaged .*: delete the folder {tmp_path} to start again"
    ):
        estimator("vae").fit(blobs[0], checkpoint=tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_writing_the_state_takes_a_small_share_of_the_time(blobs, tmp_path, monkeypatch):
    """With 2% of the time for writing, a state that takes a second is written every fifty
    seconds."""
    written = []

    def slowly(self, phase, state):
        written.append(state["steps_done"])
        time.sleep(1)

    monkeypatch.setattr(Checkpoint, "write", slowly)
    estimator("vae", max_epochs=50).fit(blobs[0], checkpoint=tmp_path)
    assert written == [1, 300]  # the first, which finds out how long it takes, and the last


def test_a_failed_write_keeps_the_state_before(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.begin()
    checkpoint.write("training", {"a": torch.ones(3), "inner": {"b": torch.zeros(2), "n": 1}})

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(InputError, match=r"No space left on device.*make room"):
        checkpoint.write("training", {"a": torch.zeros(3)})
    found = checkpoint.read("training")
    assert torch.equal(found["a"], torch.ones(3))
    assert torch.equal(found["inner"]["b"], torch.zeros(2))
    assert found["inner"]["n"] == 1


def test_a_state_of_unknown_work_is_not_used(blobs, tmp_path):
    """An interrupted removal leaves such a state. Neither another seed's model nor one of other
    data is used."""
    X = blobs[0]
    expected = weights(estimator("vae", random_state=1).fit(X * 3))
    estimator("vae").fit(X, checkpoint=tmp_path / "state")
    (tmp_path / "state" / "training.json").unlink()
    assert torch.equal(
        weights(estimator("vae", random_state=1).fit(X * 3, checkpoint=tmp_path / "state")),
        expected,
    )


def test_a_state_of_other_work_is_refused(tmp_path):
    first = Checkpoint(tmp_path)
    first.agree({"seed": 0})
    first.begin()
    first.write("training", {"a": torch.ones(3)})
    identity = json.loads((tmp_path / "training.json").read_text())
    (tmp_path / "training.json").write_text(json.dumps({**identity, "seed": 1}))
    other = Checkpoint(tmp_path)
    other.agree({"seed": 1})
    with pytest.raises(InputError, match="its content has changed since it was written"):
        other.read("training")


def test_a_folder_whose_removal_is_cut_short_is_gone_from_its_place(tmp_path, monkeypatch):
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "training.json").touch()
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        remove_folder(folder)
    assert not folder.exists()


def test_a_full_disk_is_reported_when_the_log_is_written(blobs, tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoint, "open_log", lambda self, n_lines: Path("/dev/full"))
    with pytest.raises(
        InputError, match=r"^cannot write /dev/full \(No space left on device\): make room"
    ):
        estimator("vae").fit(blobs[0], checkpoint=tmp_path)


def test_a_full_disk_within_an_epoch_leaves_finite_parameters(blobs, monkeypatch):
    """A parameter is infinite in the third step of the second epoch, and the disk full after it."""
    once = estimator("vae", max_epochs=2).fit(blobs[0])
    original = loop.Training._take_step

    def breaking(self, rows):
        original(self, rows)
        if self.epochs_done == 1 and self.batches_done == 3:
            next(self.model.parameters()).data.fill_(torch.inf)
            raise InputError("cannot write it: make room.")

    monkeypatch.setattr(loop.Training, "_take_step", breaking)
    broken = estimator("vae", max_epochs=2)
    with pytest.raises(InputError, match="make room"):
        broken.fit(blobs[0])
    assert weights(broken).isfinite().all()
    assert broken.history_["loss"].tolist() == once.history_["loss"].tolist()[:1]


def test_a_signal_that_nobody_asks_for_is_raised_at_the_end():
    reached = []
    # A process in the background ignores Ctrl-C by default.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), deferred_interrupt():  # noqa: PT012
            signal.raise_signal(signal.SIGINT)
            reached.append(True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert reached == [True]
    with deferred_interrupt() as interrupt:
        signal.raise_signal(signal.SIGTERM)
        assert interrupt() == signal.SIGTERM


READING = """
import time, torch, uncollapse as uc
from torch.utils.data import Dataset

class Slow(Dataset):
    def __len__(self):
        return 5000

    def __getitem__(self, index):
        if index == 10:
            print("reading", flush=True)
        time.sleep(0.01)
        return torch.randn(1000)  # of which a block has 131

from uncollapse._utils.signals import deferred_interrupt
with deferred_interrupt():  # as the command line has it
    uc.VAE(latent_dim=1, hidden=(4,), max_epochs=1, verbose=False).fit(Slow())
"""


@pytest.mark.slow
def test_ctrl_c_is_heard_while_data_are_read():
    process = subprocess.Popen(
        [sys.executable, "-c", READING],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout.readline() == "reading\n"
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    process.stdout.close()
    assert time.monotonic() - start < 15  # of 50 seconds that reading takes


TRAINING = """
import numpy as np, uncollapse as uc
X = np.random.default_rng(0).normal(size=(400, 5)) @ np.diag([3, 2, 1, 1, 0.1])
mixture = uc.MixtureVAE(n_components=3, latent_dim=2, hidden=(8, 8), max_epochs=30, batch_size=40,
                        random_state=0, verbose=False)
mixture.fit(X, checkpoint="state").save("run", overwrite=True)
"""


@pytest.mark.slow
def test_a_training_that_is_killed_at_random_moments_ends_in_the_same_parameters(
    tmp_path, monkeypatch
):
    def run(folder, seconds):
        folder.mkdir(exist_ok=True)
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-c", TRAINING], cwd=folder, stderr=subprocess.PIPE, env=one_thread
        )
        try:
            _, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return False
        assert process.returncode == 0, err.decode()
        return True

    start = time.perf_counter()
    assert run(tmp_path / "whole", 300)
    took = time.perf_counter() - start
    chance, n_killed = np.random.default_rng(0), 0
    while n_killed < 4:
        # From before the first step to the last files; what it has ended, the next one begins anew.
        if run(tmp_path / "killed", chance.uniform(0.5, 1.2) * took):
            for path in (tmp_path / "killed" / "state").iterdir():
                path.unlink()
        else:
            n_killed += 1
    monkeypatch.chdir(tmp_path / "killed")
    exec(TRAINING, {})
    whole, killed = (
        load_file(tmp_path / name / "run" / "model.safetensors") for name in ("whole", "killed")
    )
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_the_log_has_what_the_progress_bar_shows(blobs, tmp_path):
    vae = estimator("annealed").fit(blobs[0], checkpoint=tmp_path)
    log = pd.DataFrame(
        json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()
    )
    for name in ("loss", "reconstruction", "kl", "seconds", "evaluations"):
        assert np.allclose(log[name], vae.history_[name], rtol=1e-6), name
    assert log[["inverse_lipschitz_1", "inverse_lipschitz_2"]].iloc[-1].tolist() == pytest.approx(
        vae.inverse_lipschitz_, rel=1e-6
    )


@pytest.mark.extra
def test_tensorboard_is_told_the_same(blobs, tmp_path):
    from lightning.fabric.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, "board", 0)
    tell = lambda epoch: logger.log_metrics(epoch.metrics, epoch.number)  # noqa: E731
    vae = estimator("vae").fit(blobs[0], callbacks=[tell])
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "board" / "version_0"))
    events.Reload()
    assert np.allclose(
        [event.value for event in events.Scalars("loss")], vae.history_["loss"], rtol=1e-6
    )
