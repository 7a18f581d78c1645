"""The benchmarks run at small sizes. Their measurements are not tested."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks.numerics import FAILED, FINITE, REFUSED, ROLLED_BACK, Run, draw_run, row_of
from benchmarks.rivals import Stack, Textbook
from benchmarks.scaling import SWEEPS, Cost, shared_epoch_cost, slopes
from benchmarks.stability import independent_nats
from uncollapse import VAE
from uncollapse.families import FAMILIES, get_family
from uncollapse.objectives import Elbo, Loss


def output_of(name, *words):
    """Return what a benchmark prints that runs in this process."""
    module = import_module(f"benchmarks.{name}")
    if hasattr(module, "app"):
        app = module.app
    else:
        app = typer.Typer()
        app.command()(module.main)
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def rows_of(name, *words):
    lines = output_of(name, *words).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.mark.slow
def test_maps():
    rows = rows_of("maps", "--sizes", "toy", "--seconds", "0.1")
    assert {row["contestant"] for row in rows} == {"ours", "textbook", "mlp", "bare products"}
    assert {row["kind"] for row in rows} == {"training step", "forward"}
    assert all(
        row["milliseconds"] > 0 and row["seed"] == 0 and row["device"] == "cpu" for row in rows
    )
    ours, mlp = (
        next(row["n_parameters"] for row in rows if row["contestant"] == name)
        for name in ("ours", "mlp")
    )
    assert abs(ours - mlp) < 0.1 * ours


@pytest.mark.slow
def test_loop(monkeypatch):
    monkeypatch.setattr("benchmarks.loop.N_ROWS", 400)
    rows = rows_of("loop", "--rounds", "1", "--epochs", "2", "--batch-size", "200")
    assert rows[-1]["contestant"] == "uc.fit / bare loop"
    assert rows[-1]["ratio"] > 0


def test_textbook_is_the_same_map():
    torch.manual_seed(0)
    stack = Stack([3, 5], (8, 6)).double()
    z = torch.randn(7, 3, dtype=torch.double)
    assert torch.allclose(Textbook(stack).double()(z), stack(z), atol=1e-12)


@pytest.mark.slow
def test_mixtures():
    rows = rows_of(
        "mixtures",
        "--seconds",
        "0.1",
        "--batch-size",
        "10",
        "--n-seeds",
        "1",
        "--max-epochs",
        "8",
    )
    *times, marginal, enumerated = rows
    assert [row["contestant"] for row in times] == 2 * [
        "marginal",
        "enumerate",
        "enumerate / marginal",
    ]
    assert all(row["ratio"] > 0 for row in times[2::3])
    assert (marginal["contestant"], enumerated["contestant"]) == ("marginal", "enumerate")
    assert abs(marginal["nll_nats"] - enumerated["nll_nats"]) < 1


@pytest.mark.slow
def test_sequences():
    rows = rows_of(
        "sequences",
        "--seconds",
        "0.1",
        "--n-symbols",
        "50",
        "--batch-size",
        "2",
        "--hidden-dim",
        "8",
    )
    maps = ("maps of 512 x 2", "maps of 1024 x 2")
    assert [row["contestant"] for row in rows] == [
        "sequential VAE",
        *maps,
        *(f"{each}, history added" for each in maps),
    ]
    assert rows[0]["ratio"] == 1
    assert all(row["tokens_per_second"] > 0 for row in rows)


@pytest.mark.slow
def test_stability():
    rows = rows_of(
        "stability",
        "--n-train",
        "300",
        "--n-seeds",
        "1",
        "--max-epochs",
        "2",
        "--hidden-dim",
        "8",
        "--width",
        "8",
    )
    assert [row["L"] for row in rows] == [0.0, 0.2, 0.5, 1.5, 5.0]
    assert all(row["steps"] == 2 * 9 for row in rows)  # A tenth of the documents is held out.
    assert all(row["exploding_steps"] == 0 and row["failed"] is None for row in rows)
    assert all(row["last_nats"] < row["peak_nats"] < 10 * row["first_nats"] for row in rows)


def test_independent_symbols_cost_their_entropy():
    assert independent_nats(["a b", "a"]) == pytest.approx(
        0.5 * (4 * math.log(5 / 2) + math.log(5))
    )


@pytest.mark.slow
def test_truth(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.truth.N_POSTERIOR_DRAWS", 1)
    path = tmp_path / "truth.jsonl"
    rows = rows_of(
        "truth",
        "run",
        str(path),
        "--n-draws",
        "2",
        "--n-thorough",
        "0",
        "--n-models",
        "5",
    )
    known = {(row["case"], row["estimate"]): row for row in rows}
    assert known["conjugate categorical", "nll_nats"]["exact"] == pytest.approx(5.798158683519095)
    known_errors = [row["mean_error"] for row in rows if row["estimate"] in ("nll_nats", "kl_nats")]
    assert np.abs(known_errors).max() < 0.6  # Two draws of 500 rows.
    assert all(row["wrong"] == [] for row in rows if row["case"] == "verdicts")
    again = rows_of("truth", "run", str(path))
    assert again == []
    assert output_of("truth", "table", str(path)).count("|\n") == len(rows) + 4


@pytest.mark.slow
def test_scaling():
    """Except for the sweep over processes, which starts seven of them."""
    sweeps = [name for name in SWEEPS if name != "n_processes"]
    rows = rows_of("scaling", "--seconds", "0.01", "--n-values", "2", "--sweeps", ",".join(sweeps))
    contestants = [(row["sweep"], row["contestant"]) for row in rows]
    assert contestants[::3] == [
        ("rows", "VAE"),
        ("latent_dim", "VAE"),
        ("n_features", "VAE"),
        ("n_components", "marginal"),
        ("n_components", "enumerate"),
        ("vocabulary", "SequenceVAE"),
    ]
    costs = [row for row in rows if "value" in row]
    assert all(row["milliseconds"] > 0 and row["peak_mib"] > 0 for row in costs)
    assert rows[8]["values"] == [64, 256]
    assert rows[8]["latent_dim"] == 32
    assert "n_features" not in rows[8]
    assert rows[2]["memory_slope"] > 0


@pytest.mark.slow
def test_an_epoch_of_two_processes_has_a_cost(monkeypatch):
    monkeypatch.setattr("benchmarks.scaling.MIN_ROWS_SEEN", 2000)
    assert min(SWEEPS["n_processes"].values) == 1
    assert min(shared_epoch_cost(2)) > 0


def test_slopes_are_powers_above_a_constant_part():
    values = [1, 10, 100, 1000]
    found = slopes(values, [Cost(3.0 * value**2, 5.0 + value) for value in values])
    assert (found["time_slope"], found["time_slope_upper_half"]) == (2.0, 2.0)
    assert found["memory_slope"] < 0.8 < 0.9 < found["memory_slope_upper_half"] < 1


@pytest.mark.slow
def test_numerics():
    *rows, summary = rows_of("numerics", "--runs", "2")
    assert [row["run"] for row in rows] == [0, 1]
    assert summary["outcomes"] == {FINITE: 2}
    assert all(
        row["parameters_finite"] is row["means_finite"] is row["scores_finite"] is True
        for row in rows
    )
    assert rows_of("numerics", "--runs", "1", "--first", "1")[0]["loss"] == rows[1]["loss"]


def test_outcomes_of_trainings_are_distinguished(minimize):
    def end(loss_factor=1.0, **arguments):
        minimize(lambda model, x, step: Loss(loss_factor * Elbo()(model, x, step).value, model(x)))
        return row_of(
            Run(
                VAE,
                {"max_epochs": 1, "hidden": (4,), **arguments},
                np.random.default_rng(0).normal(size=(20, 3)),
                {},
            )
        )

    assert end()["outcome"] == FINITE
    assert end(latent_dim=4)["outcome"] == REFUSED
    assert end(math.nan)["outcome"] == ROLLED_BACK
    assert end("no number")["outcome"] == FAILED


def test_all_families_are_drawn_with_suitable_data():
    runs = [draw_run(np.random.default_rng((0, index))) for index in range(60)]
    tables = [run for run in runs if "family" in run.arguments]
    assert {name for run in tables for name in run.arguments["family"]} == set(FAMILIES)
    for run in tables:
        get_family(run.arguments["family"]).check(run.X.astype(np.float32))


@pytest.mark.slow
@pytest.mark.extra
def test_memory(tmp_path, monkeypatch):
    # Threads begin at once, where fresh processes import the library first.
    monkeypatch.setattr(
        "benchmarks.memory.ProcessPoolExecutor", lambda n, context: ThreadPoolExecutor(n)
    )
    rows = rows_of(
        "memory",
        str(tmp_path / "big"),
        "--gib",
        "0.01,0.02",
        "--race-gib",
        "0.02",
        "--rounds",
        "1",
    )
    assert [(row["contestant"], row["gib"]) for row in rows[:4]] == [
        ("npy", 0.01),
        ("parquet", 0.01),
        ("npy", 0.02),
        ("parquet", 0.02),
    ]
    assert [row["contestant"] for row in rows[4:]] == ["memory", "npy", "parquet"]
    assert rows[4]["speed"] == 1
    assert all(row["peak_mib"] > 0 and row["rows_per_second"] > 0 for row in rows)
    assert list((tmp_path / "big").iterdir()) == []
