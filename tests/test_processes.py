"""Several processes that train one model: the steps are those of one, and all of them end well."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import uncollapse as uc
from uncollapse._utils.errors import InputError
from uncollapse._utils.processes import is_first_process
from uncollapse.models import BatchContext
from uncollapse.training.processes import Share, SharedBatch

SMALL = {
    "latent_dim": 2,
    "hidden": (8, 8),
    "max_epochs": 2,
    "batch_size": 51,
    "random_state": 0,
    "verbose": False,
}

COMMAND = str(
    Path(sys.executable).with_name("uncollapse")
)  # what Lightning starts again must be a file
ONE_THREAD = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
}  # beside other tests, several would be in each other's way

# 205 rows: the last batch has one row, of which one of two processes has none.
SCRIPT = """
import json, sys
import numpy as np, torch, uncollapse as uc
from uncollapse.training import loop
from torch.utils.data import DataLoader, TensorDataset
from uncollapse.data import load
from uncollapse._utils.processes import is_first_process

torch.set_num_threads(1)
X = np.random.default_rng(0).normal(size=(205, 6)) @ np.diag([3, 2, 1, 1, 0.5, 0.1])
rows = TensorDataset(torch.as_tensor(X))
texts = list(load("synthetic-text").X[:60])
small = dict(latent_dim=2, hidden=(8, 8), max_epochs=2, batch_size=51, random_state=0)
small.update(verbose=False, device="cpu")
plain = dict(small, inverse_lipschitz=None)
tiny = dict(small, embedding_dim=8, hidden_dim=8, word_dropout=0.2, batch_size=7)
kinds = {
    "vae": (uc.VAE, small, X),
    "annealed": (uc.VAE, dict(small, annealing=True), X),
    "rate target": (uc.VAE, dict(small, target_kl=2.0), X),
    "free bits": (uc.VAE, dict(small, objective={"free_bits": {"nats": 1.0}}), X),
    "penalty": (uc.VAE, dict(plain, objective={"gradient_penalty": {"slope": 5.0}}), X),
    "importance": (uc.VAE, dict(small, objective="importance_weighted", posterior="realnvp"), X),
    "latent reconstruction": (uc.VAE, dict(small, objective="latent_reconstruction"), X),
    "semi-amortized": (uc.VAE, dict(small, strategy={"semi_amortized": {"n_steps": 2}}), X),
    "grey levels": (uc.VAE, dict(small, family="bernoulli"), np.abs(X) / np.abs(X).max()),
    "mixture": (uc.MixtureVAE, dict(small, n_components=3), X),
    "enumerated": (uc.MixtureVAE, dict(small, n_components=3, inference="enumerate"), X),
    "data set": (uc.VAE, small, rows),
    "loader": (uc.VAE, small, DataLoader(rows, 51, shuffle=True)),
    "text": (uc.SequenceVAE, tiny, texts),
}

losses = []

class Losses(loop.LastGood):
    def after_step(self, training, step):
        losses.append(float(step.loss))

loop.LastGood = Losses

results = {}
for name in sys.argv[2:] or kinds:
    kind, arguments, data = kinds[name]
    losses.clear()
    fitted = kind(**arguments, devices=int(sys.argv[1])).fit(data)
    tensors = fitted.model_.state_dict().values()
    weights = torch.cat([value.flatten().double() for value in tensors]).tolist()
    results[name] = [list(losses), weights, fitted.history_["loss"].tolist()]
    fitted.save("run-" + name.replace(" ", "-"))
if is_first_process():
    print(json.dumps(results))
"""


def run(arguments, folder):
    return subprocess.run(
        arguments,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=ONE_THREAD,
        timeout=600,
    )


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    found = {}
    for name, command in {
        "one": [sys.executable, "script.py", "1"],
        "two": [sys.executable, "script.py", "2"],
        "torchrun": [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            "script.py",
            "2",
            *("vae", "loader", "text"),
        ],
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "script.py").write_text(SCRIPT)
        done = run(command, folder)
        assert done.returncode == 0, done.stderr
        found[name] = json.loads(done.stdout)
        assert len(list(folder.glob("run-*"))) == len(found[name])
    assert found["two"].keys() == found["one"].keys()
    assert list(found["torchrun"]) == ["vae", "loader", "text"]
    for other in ("two", "torchrun"):
        for kind, (their_losses, their_weights, their_history) in found[other].items():
            losses, weights, history = found["one"][kind]
            assert np.allclose(losses, their_losses, rtol=1e-6, atol=1e-5), kind
            # Some parameters of an enumerated posterior have no gradient but rounding, along which
            # Adam takes steps of its learning rate, 0.001.
            close = 1e-3 if kind == "enumerated" else 1e-5
            assert np.allclose(weights, their_weights, atol=close), kind
            assert np.allclose(history, their_history, rtol=1e-6, atol=1e-5), kind


@pytest.mark.slow
def test_a_fit_of_two_processes_goes_on_where_it_was_ended(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(1000, 4)))
    fit = [
        COMMAND,
        "fit",
        "x.npy",
        "max_epochs=30",
        "hidden=8,8",
        "random_state=0",
        "batch_size=40",
        "devices=2",
        "device=cpu",
    ]
    whole = run([*fit, "-o", "whole"], tmp_path)
    assert (whole.returncode, whole.stderr) == (0, "")
    assert whole.stdout.count("saved in whole") == 1
    for how in (signal.SIGTERM, signal.SIGKILL):
        run_folder = tmp_path / "runs" / how.name
        command = [*fit, "-o", run_folder]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ONE_THREAD,
            start_new_session=True,
        )
        unfinished = run_folder.with_name(f"{how.name}.unfinished")
        while not (unfinished / "training.state.pt").exists():
            time.sleep(0.01)
        time.sleep(1)
        os.killpg(process.pid, how)
        process.communicate(timeout=60)
        assert process.returncode == (143 if how == signal.SIGTERM else -9)
        resumed = run([*command, "--resume"], tmp_path)
        assert (resumed.returncode, resumed.stderr) == (0, "")
        first, second = (
            uc.load(folder).model_.state_dict() for folder in (tmp_path / "whole", run_folder)
        )
        assert all(torch.equal(first[name], second[name]) for name in first), how


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_with_a_sentence(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(1000, 4)))
    fit = [
        COMMAND,
        "fit",
        "x.npy",
        "max_epochs=2000",
        "hidden=8,8",
        "random_state=0",
        "devices=2",
        "device=cpu",
    ]
    process = subprocess.Popen(
        fit, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ONE_THREAD
    )
    state = tmp_path / "runs" / "x.unfinished" / "training.state.pt"
    while not state.exists():
        time.sleep(0.01)
    other = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(other[-1]), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.count("\n")) == (2, 1), err
    assert "one of 2 processes that train together has died, in epoch " in err
    assert state.exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_ends_them_all(tmp_path):
    X = np.random.default_rng(0).normal(size=(200, 4))
    np.save(tmp_path / "x.npy", X)
    done = run(
        [
            COMMAND,
            "fit",
            "x.npy",
            "devices=2",
            "random_state=0",
            "learning_rate=1e30",
            "device=cpu",
        ],
        tmp_path,
    )
    assert done.returncode == 1
    assert done.stderr.count("error:") == 1
    assert "Lower learning_rate" in done.stderr
    assert np.isfinite(uc.load(tmp_path / "runs" / "x").transform(X)).all()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            {"random_state": None},
            "training on several devices needs an integer as random_state. Use, for example,",
        ),
        (
            {"strategy": "lagging"},
            "strategy 'lagging' trains on one device. Set",
        ),
    ],
)
def test_what_several_processes_cannot_do_is_refused(arguments, complaint, blobs):
    with pytest.raises(InputError, match=complaint):
        uc.VAE(**{**SMALL, **arguments}, devices=2).fit(blobs[0])


def test_processes_that_were_started_must_be_those_that_train(blobs, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(
        InputError,
        match=r"2 processes were started on this machine, got devices=1\. Give devices=2",
    ):
        uc.VAE(**SMALL).fit(blobs[0])


def test_shares_are_the_whole_batch():
    for total in (1, 2, 7, 100):
        for n in (1, 2, 3, 8):
            shares = [Share.from_rank(total, process, n) for process in range(n)]
            assert sum(share.size for share in shares) == total
            rows = torch.cat(
                [torch.arange(total)[share.start : share.start + share.size] for share in shares]
            )
            assert torch.equal(rows, torch.arange(total))
            assert all(
                len(share.take(torch.arange(total))) == max(1, share.size) for share in shares
            )


def test_draws_of_a_share_are_those_of_its_rows():
    def drawn(draws, n):
        torch.manual_seed(0)
        return draws.normal(torch.zeros(n, 1), 3, 4)

    whole = drawn(BatchContext(), 7)
    parts = [
        drawn(SharedBatch(share), share.size)
        for share in (Share.from_rank(7, process, 3) for process in range(3))
    ]
    assert torch.equal(torch.cat(parts, 1), whole)


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),
    ],
)
def test_the_process_that_writes(environment, first, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is first
