"""Diagnoses that are interrupted: they go on where they were, and end in the same report, byte for
byte."""

import copy
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, TensorDataset

import uncollapse as uc
from uncollapse._utils.errors import InputError
from uncollapse._utils.state_files import StateFolder
from uncollapse.certificates import certificate as certificates
from uncollapse.data.stored import StoredArray
from uncollapse.diagnostics import diagnose as diagnosis
from uncollapse.measures import ais as referee
from uncollapse.measures import batches as stream
from uncollapse.measures import fisher, likelihood, refinement
from uncollapse.measures import information as collapse
from uncollapse.measures import result_cache as ledger
from uncollapse.measures import row_map as work
from uncollapse.measures.result_cache import Ledger, Page

# What takes long, and where it is looked up.
STEPS = {
    "posteriors": (collapse, "_infer"),
    "weights": (likelihood, "_weigh"),
    "refinement": (diagnosis, "refine"),
    "annealing": (diagnosis, "annealed_log_likelihood"),
    "scores of the prior": (certificates, "prior_scores"),
    "scores of posteriors": (fisher, "_scores_of_rows"),
    "information": (diagnosis, "information"),
    "divergence": (diagnosis, "relative_fisher_divergence"),
}


@pytest.fixture
def steps(monkeypatch):
    """The steps that have been taken; where a number is put behind "stop at", the step after so
    many is interrupted."""
    taken, due = [], {}
    monkeypatch.setattr(stream, "ROWS_AT_ONCE", 60)
    monkeypatch.setattr(work, "EVALUATIONS_AT_ONCE", 2048)
    monkeypatch.setattr(refinement, "N_STEPS", 10)
    monkeypatch.setattr(referee, "N_LEAPFROG", 1)

    def counting(name, original):
        def counted(*args, **kwargs):
            if len(taken) == due.get("stop at"):
                raise KeyboardInterrupt
            taken.append(name)
            return original(*args, **kwargs)

        return counted

    for name, (module, function) in STEPS.items():
        monkeypatch.setattr(module, function, counting(name, getattr(module, function)))
    return taken, due


ROWS = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32) * np.float32(
    [3, 2, 1, 1, 0.1]
)


@pytest.fixture(scope="module")
def vae():
    return uc.VAE(latent_dim=2, hidden=(8, 8), max_epochs=1, random_state=0, verbose=False).fit(
        ROWS
    )


def report_of(vae, folder=None, X=ROWS, **changes):
    return uc.diagnose(
        vae, X, **{"n_importance": 32, "checkpoint": folder, "verbose": False, **changes}
    )


def written(report, folder):
    return report.to_json(folder / "report.json", overwrite=True).read_bytes()


def test_nothing_is_evaluated_twice(vae, tmp_path, steps):
    """Wherever it is interrupted: while it goes over all rows, over a sample of them, or between
    its parts."""
    taken, due = steps
    whole = written(report_of(vae), tmp_path)
    needed = taken[:]
    assert Counter(needed) == {
        **dict.fromkeys(STEPS, 1),
        "posteriors": 5,
        "weights": 5,
        "scores of posteriors": 13,
    }
    for stop in (3, 5, 8, 10, 20, len(needed) - 1):
        taken.clear()
        folder = tmp_path / str(stop)
        due["stop at"] = stop
        with pytest.raises(KeyboardInterrupt):
            report_of(vae, folder)
        due.clear()
        assert written(report_of(vae, folder), tmp_path) == whole
        assert taken == needed, stop
    taken.clear()
    assert written(report_of(vae, folder), tmp_path) == whole
    assert taken == []


def test_rows_may_come_in_other_batches_than_before(vae, tmp_path, steps):
    taken, due = steps
    whole = report_of(vae, thorough=False)
    taken.clear()
    due["stop at"] = 2
    with pytest.raises(KeyboardInterrupt):
        report_of(vae, tmp_path, thorough=False)
    due.clear()
    others = DataLoader(TensorDataset(torch.as_tensor(ROWS)), batch_size=50)  # 120 rows are known
    again = report_of(vae, tmp_path, others, thorough=False)
    assert taken[:4] == ["posteriors"] * 4
    for name in ("kl_nats", "nll_nats"):
        assert again.estimates[name].value == pytest.approx(whole.estimates[name].value, rel=1e-6)


def test_a_model_whose_constants_have_been_set_is_another_one(vae, tmp_path):
    model = copy.deepcopy(vae)
    report_of(model, tmp_path, thorough=False)
    model.model_.decoder.set_constants(tuple(5.0 for _ in model.model_.decoder.constants))
    with pytest.raises(
        InputError, match="holds the state of another diagnosis, of which constants is"
    ):
        report_of(model, tmp_path, thorough=False)


def test_data_on_disk_are_read_again_and_not_looked_at_again(vae, tmp_path, steps, monkeypatch):
    monkeypatch.setattr("uncollapse.data.stored.BLOCK_BYTES", 50 * 5 * 4)
    taken, due = steps
    X = StoredArray(ROWS)
    assert list(X.sizes) == [50, 50, 50, 50]
    whole = written(report_of(vae, X=X, thorough=False), tmp_path)
    needed = taken[:]
    taken.clear()
    due["stop at"] = 3
    with pytest.raises(KeyboardInterrupt):
        report_of(vae, tmp_path / "state", X, thorough=False)
    due.clear()
    assert written(report_of(vae, tmp_path / "state", X, thorough=False), tmp_path) == whole
    assert taken == needed


@pytest.fixture
def interrupted(vae, tmp_path, steps):
    """A folder of a diagnosis that has looked at 120 of 200 rows."""
    steps[1]["stop at"] = 2
    with pytest.raises(KeyboardInterrupt):
        report_of(vae, tmp_path)
    steps[1].clear()
    return tmp_path


def other_first_row(X):
    return np.concatenate([X[:1] + 1, X[1:]])


@pytest.mark.parametrize(
    ("change", "changes", "complaint"),
    [
        (None, {"n_importance": 33}, "n_importance is 32 and not 33"),
        (None, {"thorough": False}, "thorough is True and not False"),
        (lambda X: X[:150], {}, "rows is 200 and not 150"),
        (other_first_row, {}, "the first 120 rows are others"),
        (lambda X: iter_rows(X[:100]), {}, "rows is 200 and not None"),
    ],
)
def test_the_state_of_another_diagnosis_is_refused(change, changes, complaint, vae, interrupted):
    with pytest.raises(
        InputError,
        match=f"{interrupted} holds the state of another diagnosis, of which {complaint}",
    ):
        report_of(vae, interrupted, ROWS if change is None else change(ROWS), **changes)


def iter_rows(X):
    """Rows whose number is known only when they have been read."""
    return torch.utils.data.DataLoader(Stream(X), batch_size=None)


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, X):
        self.X = X

    def __iter__(self):
        return (torch.as_tensor(self.X[start : start + 60]) for start in range(0, len(self.X), 60))


def test_a_stream_that_has_become_shorter_is_refused(vae, tmp_path, steps):
    steps[1]["stop at"] = 2
    with pytest.raises(KeyboardInterrupt):
        report_of(vae, tmp_path, iter_rows(ROWS))
    steps[1].clear()
    with pytest.raises(
        InputError, match="another diagnosis, of which there are at least 120 rows and not 60"
    ):
        report_of(vae, tmp_path, iter_rows(ROWS[:60]))


def test_the_diagnosis_of_another_model_is_refused(vae, interrupted):
    other = copy.deepcopy(vae)
    next(other.model_.parameters()).flatten()[0] += 1e-6
    with pytest.raises(InputError, match=r"another diagnosis, of which weights is '.*' and not"):
        report_of(other, interrupted)


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "of a training", "no object"])
def test_a_damaged_state_is_one_sentence(damage, vae, interrupted):
    path = interrupted / "diagnosis.state.safetensors"
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-100])
    elif damage == "flipped":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "foreign":
        save_file(load_file(path), path)
    elif damage == "of a training":
        StateFolder(interrupted, "training").write("training", {"epochs_done": 1})
        os.replace(interrupted / "training.state.safetensors", path)
    else:
        (interrupted / "diagnosis.json").write_text("[]")
    with pytest.raises(
        InputError, match=f"damaged .*: remove the folder {interrupted} to begin anew"
    ):
        report_of(vae, interrupted)


def test_batches_that_were_cut_in_another_way_are_looked_at_again():
    page = Page([{"a": np.zeros(5)}], lambda: None)
    assert page.rest([slice(0, 5), slice(5, 8)]) == [slice(5, 8)]
    assert page.rest([slice(0, 4), slice(4, 8)]) == [slice(0, 4), slice(4, 8)]
    assert page.pieces == []


def test_writing_down_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    """Where it takes a second, and something is found every half of one, it is done every fifty."""
    clock, moments = [0.0], []

    def slowly(self, part, state):
        moments.append(clock[0])
        clock[0] += 1

    monkeypatch.setattr(StateFolder, "write", slowly)
    monkeypatch.setattr(ledger.time, "perf_counter", lambda: clock[0])
    with Ledger(StateFolder(tmp_path, "diagnosis")) as kept:
        page = kept.page("rows")
        for _ in range(250):
            clock[0] += 0.5
            page.add({"a": np.zeros(1)})
    assert moments == [0.5, 51.5, 102.5, 128.0]


COMMAND = [sys.executable, "-c", "from uncollapse.cli import main; main()"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_a_diagnosis_that_is_killed_at_random_moments_ends_in_the_same_report(tmp_path):
    X = np.random.default_rng(0).normal(size=(3000, 6)) @ np.diag([3, 2, 1, 1, 0.5, 0.1])
    np.save(tmp_path / "x.npy", X)
    uc.VAE(latent_dim=2, hidden=(16, 16), max_epochs=2, random_state=0, verbose=False).fit(X).save(
        tmp_path / "run"
    )
    diagnose, chance = (
        [*COMMAND, "diagnose", "run", "x.npy", "--n-importance", "256"],
        np.random.default_rng(0),
    )

    def run(*words):
        options = {
            "cwd": tmp_path,
            "env": ONE_THREAD,
            "text": True,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        return subprocess.Popen([*diagnose, *words], **options)

    def ended(process):
        out, err = process.communicate(timeout=100)
        return process.returncode, out, err

    assert ended(run("--html", "whole.html", "--json", "whole.json"))[::2] == (0, "")
    folder = tmp_path / "run" / "report.json.unfinished"
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        process = run("--resume")
        before = newest(folder)
        while newest(folder) == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.5))
        process.send_signal(how)
        code, _, err = ended(process)
        assert code == (143 if how == signal.SIGTERM else -9)
        assert (
            "terminated; what was found is in run/report.json.unfinished, and --resume" in err
        ) == (how == signal.SIGTERM)
        assert err.count("\n") == (how == signal.SIGTERM)
    assert ended(run("--resume"))[0] == 0
    assert (tmp_path / "run" / "report.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not folder.exists()


def newest(folder):
    path = folder / "diagnosis.state.safetensors"
    return path.stat().st_mtime_ns if path.exists() else None
