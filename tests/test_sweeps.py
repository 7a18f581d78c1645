"""Sweeps: their trials and rows, the best model, and resumption after kills."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from torch.utils.data import DataLoader, TensorDataset

import uncollapse as uc
from uncollapse._utils.errors import InputError, NonFiniteLossError
from uncollapse.data import hold_out, load
from uncollapse.experiments import sweep_result
from uncollapse.experiments.papers import reproduce
from uncollapse.experiments.results import ResultsFolder
from uncollapse.experiments.run import RunOptions, import_on_ray, run_trials
from uncollapse.experiments.search_space import SweepTrial, digest
from uncollapse.experiments.selection import SelectionRule
from uncollapse.experiments.sweep import as_data
from uncollapse.experiments.sweep_result import Sweep
from uncollapse.experiments.trial import TrialData

X = np.random.default_rng(0).normal(size=(120, 4)) @ np.diag([3.0, 2.0, 1.0, 0.1])
SMALL = {"latent_dim": 2, "hidden": (8,), "max_epochs": 3, "batch_size": 32, "verbose": False}
GRID = {"inverse_lipschitz": [0.0, 1.0], "learning_rate": [1e-3, 1e-2]}


def sweep(folder, grid=GRID, **others):
    said = []
    found = uc.sweep(
        X, grid, output=folder, **{"ray": "none", "tell": said.append, **SMALL, **others}
    )
    return found, said


@pytest.fixture
def no_pictures(monkeypatch):
    """Leave out the figure of a sweep, which takes longer than its trials."""
    monkeypatch.setattr(sweep_result, "as_png", lambda figure: b"")


def row(labels, seed, nll=None, kl=None, **others):
    """Return a row of a results file."""
    estimates = (
        {}
        if nll is None
        else {"estimates": {"nll_nats": {"value": nll}, "kl_nats": {"value": kl}}, "seconds": 2.0}
    )
    key = f"{labels}{seed}"
    return {
        "key": key,
        "model": "VAE",
        "labels": labels,
        "seed": seed,
        "curve": [[0, nll], [kl, nll]],
        **estimates,
        **others,
    }


def found(rows, min_kl=0.0, tmp_path=None):
    return Sweep(tuple(rows), ("L",), 2, SelectionRule(min_kl), tmp_path)


ROWS = [
    row({"L": 0}, 0, 10.0, 1.0),
    row({"L": 0}, 1, 12.0, 1.4),
    row({"L": 1}, 0, 13.0, 2.0),
    row({"L": 1}, 1, 12.5, 3.0),
    row({"L": 2}, 0, 20.0, 9.0),
    row({"L": 2}, 1, 22.0, 9.0),
]


def test_table_holds_means_and_deviations_over_seeds():
    table = found(ROWS).table()
    assert table["L"].tolist() == [0, 1, 2]
    assert table["nll_nats"].tolist() == [11.0, 12.75, 21.0]
    assert np.allclose(table["nll_nats_deviation"], [np.sqrt(2), np.sqrt(0.125), np.sqrt(2)])
    assert np.allclose(table["kl_nats"], [1.2, 2.5, 9.0])
    assert table["done"].tolist() == [2, 2, 2]
    assert table["mutual_information_nats"].isna().all()


@pytest.mark.parametrize(
    ("min_kl", "best"),
    [(0.0, ({"L": 0}, 0)), (1.3, ({"L": 1}, 1)), (2.6, ({"L": 2}, 0)), (9.5, None)],
)
def test_best_has_lowest_nll_among_those_with_enough_kl(min_kl, best, tmp_path):
    """The mean over seeds selects the configuration (a single seed of L = 0 has a KL of 1.4), and
    the rank selects the seed."""
    result = found(ROWS, min_kl, tmp_path)
    chosen = result.best
    assert (chosen and (chosen["labels"], chosen["seed"])) == best
    assert result.best_folder == (None if best is None else tmp_path / chosen["key"])
    if best is None:
        assert repr(result).endswith("none: the highest KL of a configuration is 9 nats")
        assert result.table()["qualifies"].tolist() == [False] * 3


def test_incomplete_configurations_come_after_complete_ones():
    rows = [row({"L": 0}, 0, 1.0, 1.0), row({"L": 0}, 1, error="the loss became nan"), *ROWS[2:4]]
    assert found(rows).best["labels"] == {"L": 1}
    assert found([*rows[:1], *ROWS[2:4]]).best["labels"] == {
        "L": 1
    }  # The other configuration has a missing row.
    assert found(rows[:1] + ROWS[2:4], 2.7).best is None
    rows[2:] = [row({"L": 1}, 0, 13.0, 2.0), row({"L": 1}, 1, stopped=3)]
    assert found(rows).best["labels"] == {"L": 0}
    assert found(rows, 1.5).best["labels"] == {"L": 1}
    assert found([*ROWS[:2], *rows[2:]], 1.5).best["labels"] == {
        "L": 1
    }  # No complete configuration has enough KL.
    assert found(rows).table()[["done", "stopped", "failed"]].to_numpy().tolist() == [
        [1, 0, 1],
        [1, 1, 0],
    ]


def test_negative_kl_qualifies_without_a_minimum():
    assert found([row({"L": 0}, 0, 1.0, -0.01), row({"L": 0}, 1, 1.0, -0.01)]).best is not None


@pytest.mark.slow
def test_finished_trials_are_not_repeated(tmp_path, monkeypatch):
    result, said = sweep(tmp_path, seeds=[0, 1])
    assert said[0] == "8 trials, 0 of them done before"
    assert said[1] == "trial 1 of 8: VAE, inverse_lipschitz 0.0, learning_rate 0.001, seed 0"
    rows = ResultsFolder(tmp_path / "trials.jsonl").rows()
    assert [
        (row["labels"]["inverse_lipschitz"], row["labels"]["learning_rate"], row["seed"])
        for row in rows
    ] == [
        (constant, rate, seed)
        for seed in (0, 1)
        for constant in (0.0, 1.0)
        for rate in (1e-3, 1e-2)
    ]
    assert all((row["n_train"], row["n_test"]) == (96, 24) for row in rows)
    assert sorted(
        path.name for path in tmp_path.iterdir() if path.name != ".trials.jsonl.lock"
    ) == [
        "best.json",
        "models",
        "rate-distortion.png",
        "sweep.csv",
        "trials.jsonl",
    ]
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["run"] == str(result.best_folder)
    model = uc.load(best["run"])
    assert model.inverse_lipschitz_ == tuple(best["trial"]["constants"])
    nll = result.table().groupby("inverse_lipschitz")["nll_nats"].min()
    assert best["trial"]["labels"]["inverse_lipschitz"] == nll.idxmin()
    alone = uc.VAE(**{**SMALL, **result.best["labels"]}, random_state=best["trial"]["seed"])
    kept, _ = as_data(X).hold_out()
    assert np.array_equal(alone.fit(kept.X).transform(X), model.transform(X))
    table = pd.read_csv(tmp_path / "sweep.csv")
    assert np.allclose(table["kl_nats"], result.table()["kl_nats"])

    with pytest.raises(InputError, match="holds 8 trials"):
        sweep(tmp_path)
    monkeypatch.setattr(SweepTrial, "execute", lambda *_: pytest.fail("computed again"))
    again, said = sweep(tmp_path, seeds=[0, 1], resume=True)
    assert said[0] == "8 trials, 8 of them done before"
    pd.testing.assert_frame_equal(again.table(), result.table())
    monkeypatch.undo()
    more, said = sweep(tmp_path, {**GRID, "learning_rate": [1e-3]}, seeds=[1, 2], resume=True)
    assert said[0] == "4 trials, 2 of them done before"  # Labels do not change keys.
    assert more.table()["done"].tolist() == [2, 2]


def test_trial_resumes_within_its_training(tmp_path, no_pictures):
    whole, _ = sweep(tmp_path / "whole", {"inverse_lipschitz": [1.0]})
    epochs = []

    def stop(epoch):
        epochs.append(epoch.number)
        if len(epochs) == 2:
            raise ZeroDivisionError("0")

    folder = ResultsFolder(tmp_path / "cut" / "trials.jsonl")
    execute = SweepTrial.execute
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            SweepTrial,
            "execute",
            lambda trial, seed, path, verbose, _: execute(trial, seed, path, verbose, stop),
        )
        patch.setattr("uncollapse.training.resume.WRITING_SHARE", np.inf)
        with pytest.raises(
            InputError,
            match="none of 1 trials has a result: VAE, seed 0: unexpected ZeroDivisionError: 0",
        ):
            sweep(tmp_path / "cut", {"inverse_lipschitz": [1.0]})
    assert not folder.rows()
    (state,) = folder.states.iterdir()
    assert json.loads((state / "training.json").read_text())["seed"] == 0
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        tell = seen.append
        patch.setattr(
            SweepTrial,
            "execute",
            lambda trial, seed, path, verbose, _: execute(trial, seed, path, verbose, tell),
        )
        resumed, _ = sweep(tmp_path / "cut", {"inverse_lipschitz": [1.0]}, resume=True)
    assert 1 <= len(seen) < 3
    assert resumed.rows[0]["estimates"] == whole.rows[0]["estimates"]
    assert same_models(tmp_path / "cut", tmp_path / "whole")
    assert not folder.states.exists()


def same_models(one, other):
    """Return whether two folders hold the same weights of the same trials."""
    weights = [
        {path.parent.name: path.read_bytes() for path in folder.glob("models/*/model.safetensors")}
        for folder in (one, other)
    ]
    return bool(weights[0]) and weights[0] == weights[1]


def test_failure_of_one_trial_does_not_stop_the_others(tmp_path, monkeypatch, no_pictures):
    execute = SweepTrial.execute
    broken = {0.0: InputError("no room."), 1.0: NonFiniteLossError("the loss became nan.")}

    def fail(trial, seed, *others):
        if trial.labels["learning_rate"] == 1e-3:
            raise broken[trial.labels["inverse_lipschitz"]]
        return execute(trial, seed, *others)

    monkeypatch.setattr(SweepTrial, "execute", fail)
    result, said = sweep(tmp_path)
    assert result.failures == ("VAE, inverse_lipschitz 0.0, learning_rate 0.001, seed 0: no room.",)
    assert "note: no room." in said
    assert result.table()[["done", "failed"]].to_numpy().tolist() == [[1, 0], [0, 1], [1, 0]]
    monkeypatch.undo()
    result, said = sweep(tmp_path, resume=True)  # A non-finite loss is final.
    assert said[0] == "4 trials, 3 of them done before"
    assert result.table()[["done", "failed"]].to_numpy().tolist() == [
        [1, 0],
        [1, 0],
        [0, 1],
        [1, 0],
    ]


def test_first_reason_is_raised_if_all_trials_fail(tmp_path, monkeypatch):
    def fail(*_):
        raise InputError("no room.")

    monkeypatch.setattr(SweepTrial, "execute", fail)
    said = (
        r"^none of 4 trials has a result: VAE, inverse_lipschitz 0\.0, learning_rate 0\.001, "
        r"seed 0: no room\.$"
    )
    with pytest.raises(InputError, match=said):
        sweep(tmp_path)


def test_rows_are_strict_json(tmp_path):
    sweep(tmp_path, {"inverse_lipschitz": [1.0]}, seeds=np.arange(1))

    def refuse(name):
        pytest.fail(f"{name} is no JSON")

    for line in [
        *(tmp_path / "trials.jsonl").read_text().splitlines(),
        (tmp_path / "best.json").read_text(),
    ]:
        json.loads(line, parse_constant=refuse)


def test_non_finite_loss_is_a_result(tmp_path, no_pictures):
    result, _ = sweep(tmp_path, {"learning_rate": [1e30, "1e-3"]})
    assert result.table()[["learning_rate", "done", "failed"]].to_numpy().tolist() == [
        [1e30, 0, 1],
        [1e-3, 1, 0],
    ]
    again, said = sweep(tmp_path, {"learning_rate": [1e-3]}, resume=True)
    assert said[0] == "1 trials, 1 of them done before"
    assert again.best == {**result.best, "labels": {}}
    with pytest.raises(InputError, match=r"none of 1 trials has a result: the loss became"):
        sweep(tmp_path, {"learning_rate": [1e30]}, resume=True)


def test_second_process_is_refused(tmp_path):
    folder = ResultsFolder(tmp_path / "trials.jsonl")
    with (
        folder.locked(),
        pytest.raises(InputError, match=r"trials\.jsonl is being written by another process. Wait"),
    ):
        sweep(tmp_path)


def test_key_depends_on_data_and_labels(tmp_path, no_pictures):
    grid, labels = {"inverse_lipschitz": [1.0]}, np.arange(20) % 2
    sweep(tmp_path, grid, held_out=X[:20], max_epochs=1)
    for held_out, given, done in (
        (X[:20], None, 1),
        (X[:20], labels, 0),
        (X[:20], 1 - labels, 0),
        (X[1:21], None, 0),
    ):
        data = {"held_out": held_out, "labels": given}
        _, said = sweep(tmp_path, grid, max_epochs=1, resume=True, **data)
        assert said[0] == f"1 trials, {done} of them done before"
    long = [np.arange(3000), np.r_[np.arange(1500), 7, np.arange(1501, 3000)]]
    digests = {digest(as_data([tokens], is_text=True)) for tokens in long}
    assert len(digests) == 2


def test_data_are_read_as_by_estimators():
    frame = as_data(pd.DataFrame({"a": [1.5, 2.0], "b": [True, False]}))
    assert (frame.X.tolist(), frame.feature_names) == ([[1.5, 1.0], [2.0, 0.0]], ["a", "b"])
    assert as_data([[1, 2], [3, 4]]).X.tolist() == [[1, 2], [3, 4]]
    assert not as_data([[1, 2], [3, 4]]).is_text
    assert as_data([[1, 2], [3, 4]], is_text=True).is_text
    assert as_data([[1, 2], [3]]).is_text
    assert as_data(["a b", "c"]).X.tolist() == ["a b", "c"]
    with pytest.raises(InputError, match="X expects columns of numbers"):
        as_data(pd.DataFrame({"a": ["u", "v"]}))
    assert as_data(csr_matrix([[0, 1], [2, 0]])).X.tolist() == [[0, 1], [2, 0]]
    for path in ("x.npy", Path("x.txt")):
        with pytest.raises(
            InputError,
            match=r"X expects examples, got .*x\..*\. Read a file with uncollapse\.data\.load",
        ):
            as_data(path, is_text=True)
    for thing in (3, [[1, 2], [3]]):
        with pytest.raises(InputError, match="X expects an array of examples in rows, got"):
            as_data(thing, is_text=False)
    rows = TensorDataset(torch.ones(3, 2))
    assert np.array_equal(next(as_data(rows).X.blocks()), np.ones((3, 2)))
    with pytest.raises(
        InputError,
        match=r"rows that can be read in any order, got a loader\. Give a data set with a length",
    ):
        as_data(DataLoader(rows))


def test_unwritable_folder_is_refused_before_the_work(monkeypatch):
    monkeypatch.setattr(SweepTrial, "execute", lambda *_: pytest.fail("computed"))
    with pytest.raises(
        InputError,
        match=r"^cannot write /proc/nowhere/trials\.jsonl \(.*\): make room, or choose another "
        r"place",
    ):
        sweep("/proc/nowhere")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"grid": {"inverse_lipschitz": "0..5"}},
            "inverse_lipschitz is a range, which needs a search",
        ),
        (
            {"grid": {"inverse_lipschitz": "much"}},
            "inverse_lipschitz expects a list of values, or a range such as '0.1..5'",
        ),
        (
            {"grid": {"inverse_lipschitz": "5..1"}, "n_searched": 3, "ray": "local"},
            "expects its lower end first",
        ),
        (
            {"grid": {"inverse_lipschitz": [0, 0.0]}},
            "inverse_lipschitz expects one or more distinct values",
        ),
        (
            {"grid": {"inverse_lipschitz": []}},
            "inverse_lipschitz expects one or more distinct values",
        ),
        ({"grid": {"family": [uc.families.Bernoulli()]}}, "family expects values that JSON has"),
        ({"grid": {"latent_dim": [1, 0]}}, "latent_dim expects a positive integer, got 0"),
        (
            {"grid": {"latent_dims": [1, 2]}},
            "there is no parameter 'latent_dims': did you mean 'latent_dim'?",
        ),
        (
            {"grid": {"latent_dim": [1, 9]}},
            "an injective decoder expects latent_dim <= natural dimension",
        ),
        (
            {"grid": {"learning_rate": ["1e-3", 0.001]}},
            "learning_rate expects one or more distinct values",
        ),
        (
            {"grid": {"device": ["auto", "cpu"]}},
            "device makes no difference to results, got several values",
        ),
        ({"devices": 2}, "a sweep trains each trial on one device"),
        ({"seeds": 2}, "seeds expect a list of integers, got 2"),
        ({"seeds": [0, 1.5]}, "seeds expect a list of integers"),
        ({"seeds": [0, -1]}, "seeds expects an integer"),
        ({"random_state": 1}, "a sweep takes seeds"),
        ({"seeds": [1, 1]}, "seeds expect one or more distinct integers"),
        ({"seeds": []}, "seeds expect one or more distinct integers"),
        ({"model": "GAN"}, "model expects one of .*, got 'GAN'"),
        ({"min_kl": -1}, "min_kl expects a number of nats, 0 or more, got -1"),
        ({"stop_early": True}, "early stopping and searches need Ray"),
        ({"n_searched": 3}, "early stopping and searches need Ray"),
        ({"labels": [1]}, "labels belong to held_out"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_written(arguments, words, tmp_path):
    with pytest.raises(InputError, match=words):
        sweep(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_command_refuses_invalid_arguments(tmp_path, command_line, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    for words, message in (
        (("--seeds", "a"), "--seeds expects whole numbers, such as 0-4 or 0,3,7, got 'a'."),
        (("--seeds", "0-9999999"), "--seeds expects whole numbers"),
        (("latent_dim",), "a setting expects KEY=VALUE"),
        (("latent_dim=[1",), "the value of latent_dim cannot be read"),
        (("latent_dim=1..2",), "latent_dim is a range"),
        (("--ray", "none", "--early-stopping"), "need Ray"),
    ):
        code, _, err = command_line("sweep", "x.npy", *words)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err
    assert os.listdir() == ["x.npy"]


def test_command_reads_lists_seeds_and_common_settings(
    tmp_path, command_line, monkeypatch, no_pictures
):
    execute, done = SweepTrial.execute, []

    def execute_once(trial, seed, *others):
        """Give every trial the results of the first one, under its own labels and seed."""
        if not done:
            done.append(execute(trial, seed, *others))
        return done[0][0], done[0][1] | trial.header(seed)

    monkeypatch.setattr(SweepTrial, "execute", execute_once)
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    (tmp_path / "common.yaml").write_text("max_epochs: 2\nlatent_dim: 3\nbatch_size: 50\n")
    words = (
        "hidden=[8],[4,4]",
        "inverse_lipschitz=None,.5",
        "latent_dim=2",
        "--seeds",
        "3,5-6",
        "-c",
        "common.yaml",
    )
    code, out, err = command_line("sweep", "x.npy", *words, "--ray", "none", "--min-kl", "1e9")
    assert (code, err) == (0, "")
    assert "12 trials, 0 of them done before" in out
    assert "none: the highest KL of a configuration is" in out
    rows = ResultsFolder(tmp_path / "sweeps" / "x" / "trials.jsonl").rows()
    assert {row["seed"] for row in rows} == {3, 5, 6}
    assert [row["labels"] for row in rows[:4]] == [
        {"hidden": hidden, "inverse_lipschitz": constant}
        for hidden in ([8], [4, 4])
        for constant in (None, 0.5)
    ]
    assert {
        (row["config"]["arguments"]["latent_dim"], row["config"]["arguments"]["batch_size"])
        for row in rows
    } == {(2, 50)}


def test_hold_out_takes_a_fifth_or_the_validation_part():
    train, rest = hold_out("digits")
    assert (len(train.X), len(rest.X)) == (1078, 269)
    together = np.vstack([train.X, rest.X])
    assert np.array_equal(np.unique(together, axis=0), np.unique(load("digits").X, axis=0))
    _, validation = hold_out("synthetic-text")
    assert validation.X.tolist() == load("synthetic-text", "validation").X.tolist()


SWEEP = """
import numpy as np, uncollapse as uc
X = np.random.default_rng(0).normal(size=(300, 4)) @ np.diag([3.0, 2.0, 1.0, 0.1])
settings = {"latent_dim": 2, "hidden": (16,), "max_epochs": 40, "batch_size": 20}
uc.sweep(X, {"inverse_lipschitz": [0.0, 1.0]}, seeds=[0, 1], output="out", resume=True, ray="none",
         verbose=False, **settings)
"""


@pytest.mark.slow
def test_killed_sweep_ends_in_the_same_models(tmp_path, monkeypatch):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(folder, seconds):
        folder.mkdir(exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-c", SWEEP], cwd=folder, env=environment, stdout=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return False
        assert process.returncode == 0
        return True

    start = time.monotonic()
    assert run(tmp_path / "whole", None)
    took = time.monotonic() - start
    chance, n_states = np.random.default_rng(0), 0
    for _ in range(2):
        run(tmp_path / "cut", took * chance.uniform(0.4, 0.8))
        n_states += len(list((tmp_path / "cut").glob("out/trials.unfinished/*/*.state.pt")))
    assert n_states > 0  # Something was there to resume from.
    monkeypatch.chdir(tmp_path / "cut")
    exec(SWEEP, {})
    assert same_models(tmp_path / "whole" / "out", tmp_path / "cut" / "out")
    rows = [
        ResultsFolder(tmp_path / name / "out" / "trials.jsonl").rows() for name in ("whole", "cut")
    ]
    assert [row["key"] for row in rows[0]] == [row["key"] for row in rows[1]]
    assert [row["estimates"] for row in rows[0]] == [row["estimates"] for row in rows[1]]
    assert not (tmp_path / "cut" / "out" / "trials.unfinished").exists()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["none", pytest.param("local", marks=pytest.mark.extra)])
def test_terminated_sweep_says_how_to_resume(where, tmp_path):
    if where == "local":
        pytest.importorskip("ray", reason="needs the extra 'sweep'")
    np.save(tmp_path / "x.npy", X)
    words = [
        "sweep",
        "x.npy",
        "inverse_lipschitz=0,1",
        "latent_dim=2",
        "hidden=[8]",
        "max_epochs=3000",
        "-o",
        "out",
        "--ray",
        where,
    ]
    command = [sys.executable, "-c", "from uncollapse.cli import main; main()", *words]
    options = {"cwd": tmp_path, "text": True, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    while not list(tmp_path.glob("out/trials.unfinished/*/training.state.pt")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (
        143,
        "error: terminated; the results so far are in out, and --resume continues with them\n",
    )
    assert not (tmp_path / "out" / "trials.jsonl").exists()


@pytest.fixture(scope="module")
def ray():
    """Start an instance that several sweeps share."""
    pytest.importorskip("ray", reason="needs the extra 'sweep'")
    with suppress(ImportError):
        import_module("jax").devices()  # JAX warns of every fork from now on.
    on_ray = import_on_ray()
    with pytest.MonkeyPatch.context() as patch:
        # Trials that start together arrive at the rungs in any order.
        patch.setattr(on_ray.ray, "init", partial(on_ray.ray.init, num_cpus=2))
        with on_ray._ray("local"):
            patch.undo()
            yield "local"


@pytest.mark.extra
def test_ray_gives_the_same_results(ray, tmp_path):
    alone, _ = sweep(tmp_path / "alone")
    together, said = sweep(tmp_path / "ray", ray=ray)
    assert sum(line.startswith("done ") for line in said) == 4
    for one, other in zip(alone.rows, together.rows, strict=True):
        assert one["key"] == other["key"]
        assert one["estimates"]["nll_nats"]["value"] == pytest.approx(
            other["estimates"]["nll_nats"]["value"], rel=1e-4
        )
    assert not (tmp_path / "ray" / "trials.unfinished").exists()
    _, said = sweep(tmp_path / "alone", resume=True, ray=ray)
    assert said[0] == "4 trials, 4 of them done before"


class Mortal(SweepTrial):
    """A trial that dies in its second epoch, once."""

    def execute(self, seed, folder, verbose, on_epoch=None):
        def die(epoch):
            if epoch.number == 1 and not os.path.exists(self.data["died"]):
                Path(self.data["died"]).touch()
                os.kill(os.getpid(), signal.SIGKILL)

        return super().execute(seed, folder, verbose, die)


@pytest.mark.extra
def test_ray_replaces_a_dead_worker_and_resumes(ray, tmp_path):
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(
        sys.modules[__name__]
    )  # Workers cannot import this module.
    train, held_out = as_data(X).hold_out()
    trials = [
        Mortal(
            "VAE",
            "VAE",
            {**SMALL, "inverse_lipschitz": constant},
            {"died": str(tmp_path / "died")},
            sources=TrialData(train, held_out),
        )
        for constant in (0.0, 1.0)
    ]
    said, due = [], [(trial, 0) for trial in trials]
    assert (
        run_trials(
            due,
            ResultsFolder(tmp_path / "ray" / "trials.jsonl"),
            RunOptions(ray, tell=said.append),
        )
        == []
    )
    assert (tmp_path / "died").exists()
    run_trials(
        due,
        ResultsFolder(tmp_path / "alone" / "trials.jsonl"),
        RunOptions(verbose=False, tell=said.append),
    )
    assert same_models(tmp_path / "ray", tmp_path / "alone")


@pytest.mark.extra
def test_ray_workers_save_models_in_the_right_folder(ray, tmp_path, monkeypatch):
    """Workers that started earlier have another working directory."""
    monkeypatch.chdir(tmp_path)
    said = []
    table = reproduce(
        "w21-pinwheel", "smoke", output="results", options=RunOptions(ray, tell=said.append)
    )
    table = table.dropna(subset="seeds")  # The others are published numbers.
    assert table["seeds"].tolist() == [1] * 10
    assert len(list(Path("results", "models").iterdir())) == len(table)
    assert not [line for line in said if "lacks" in line]
    assert not Path("results", "w21-pinwheel-smoke.unfinished").exists()


@pytest.mark.extra
def test_ray_workers_read_data_on_disk(ray, tmp_path, monkeypatch):
    """Workers that started earlier have another working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("uncollapse.data.arrays.MAX_IN_MEMORY", 100)
    os.mkdir("rows")
    pd.DataFrame(X).rename(columns=str).to_parquet("rows/0.parquet", row_group_size=10)
    train, rest = hold_out("rows")
    found = uc.sweep(
        train.X,
        {"inverse_lipschitz": [0.0, 1.0]},
        held_out=rest.X,
        ray=ray,
        **{**SMALL, "max_epochs": 1},
    )
    assert found.table()["done"].tolist() == [1, 1]
    train.X.lock = threading.Lock()
    with pytest.raises(
        InputError,
        match=r"cannot be sent to Ray's processes \(cannot pickle '_thread.lock' object\)",
    ):
        uc.sweep(
            train.X, {"inverse_lipschitz": [0.0]}, held_out=rest.X, ray=ray, output="other", **SMALL
        )


@pytest.mark.extra
def test_ray_stops_poor_trials_early(ray, tmp_path):
    # Two run at once. The first of the good ones ends before a poor one starts.
    rates = {"learning_rate": [2e-2, 1e-2, 1e-9, 1e-8, 1e-7, 1e-6]}
    result, said = sweep(tmp_path, rates, max_epochs=9, ray=ray, stop_early=True)
    table = result.table()
    assert table["stopped"].sum() >= 2
    assert table["done"].sum() >= 1
    assert {row["stopped"] for row in result.rows if "stopped" in row} <= {
        1,
        3,
    }  # A ninth and a third of the epochs.
    assert result.best["labels"]["learning_rate"] >= 1e-2
    assert any(line.endswith("epochs") and "stopped after" in line for line in said)
    _, said = sweep(tmp_path, rates, max_epochs=9, ray=ray, stop_early=True, resume=True)
    assert said[0] == "6 trials, 6 of them done before"
    whole, said = sweep(tmp_path, rates, max_epochs=9, ray="none", resume=True)
    assert said[0] == f"6 trials, {table['done'].sum()} of them done before"
    assert whole.table()["done"].tolist() == [1] * 6


@pytest.mark.extra
def test_ray_search_chooses_and_resumes(ray, tmp_path):
    space = {"inverse_lipschitz": "0.1..2", "hidden": [[4], [8]]}
    few, said = sweep(tmp_path, space, ray=ray, n_searched=3)
    assert said[0] == "3 trials to be chosen, 0 of them done before"
    constants = [row["labels"]["inverse_lipschitz"] for row in few.rows]
    assert len(set(constants)) == 3
    assert all(0.1 <= constant <= 2 for constant in constants)
    more, said = sweep(tmp_path, space, ray=ray, n_searched=5, resume=True)
    assert said[0] == "5 trials to be chosen, 3 of them done before"
    assert more.rows[:3] == few.rows
    assert len(more.rows) == 5
    with pytest.raises(InputError, match="a search takes one seed, got 2"):
        sweep(tmp_path / "other", space, ray=ray, n_searched=2, seeds=[0, 1])
    for choices, number in (({"hidden": [[4], [8]]}, 2), ({}, 1)):
        with pytest.raises(
            InputError,
            match=f"a search of 3 expects at least as many combinations, got {number}",
        ):
            sweep(tmp_path / "other", choices, ray=ray, n_searched=3)


@pytest.mark.extra
def test_ray_search_chooses_nothing_twice(ray, tmp_path):
    result, _ = sweep(
        tmp_path,
        {"inverse_lipschitz": [0.0, 1.0], "precision": ["float32", "bfloat16"]},
        ray=ray,
        n_searched=4,
    )
    assert len(ResultsFolder(tmp_path / "trials.jsonl").rows()) == len(result.rows) == 4
    assert len({row["key"] for row in result.rows}) == 4
