"""Experiments of the papers: results files, tables beside published numbers, and the command."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread

import uncollapse as uc
from uncollapse._utils.errors import InputError
from uncollapse.data import NAMED
from uncollapse.data.synthetic import bayes_accuracy
from uncollapse.data.synthetic_text import TEST_TRUTH, synthetic_text, true_latents
from uncollapse.estimators import Estimator
from uncollapse.estimators.settings import check_settings
from uncollapse.experiments.environment import environment
from uncollapse.experiments.papers import EXPERIMENTS, experiment, reproduce
from uncollapse.experiments.papers.classical import Sampling
from uncollapse.experiments.papers.experiment import (
    GENERATORS,
    PUBLISHED,
    SCALES,
    Fit,
    correlation_share,
    load_trial_data,
    published_notes,
    published_numbers,
)
from uncollapse.experiments.papers.k23 import TOY_MODELS, toy_trial
from uncollapse.experiments.papers.w21 import MODELS
from uncollapse.experiments.results import ResultsFolder
from uncollapse.experiments.run import RunOptions
from uncollapse.experiments.tables import beside, mean_and_deviation, over_seeds, to_markdown
from uncollapse.objectives import get_objective


def telling(said):
    return RunOptions(verbose=False, tell=said.append)


@pytest.fixture
def file(tmp_path):
    return ResultsFolder(tmp_path / "results" / "some.jsonl")


def test_rows_keep_their_order(file):
    assert file.rows() == []
    for number in range(3):
        file.record({"key": number, "text": "σ\n"})
    assert [row["key"] for row in file.rows()] == [0, 1, 2]
    assert file.rows()[0]["text"] == "σ\n"
    assert file.path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_truncated_last_line_is_ignored_and_replaced(file, cut):
    for key in range(2):
        file.record({"key": key, "text": "x" * 20})
    file.path.write_bytes(file.path.read_bytes()[: -1 - cut])
    assert [row["key"] for row in file.rows()] == [0]
    for key in (2, 3):
        file.record({"key": key})
        assert [row["key"] for row in file.rows()] == [0, *range(2, key + 1)]


def test_last_line_without_newline_is_a_row(file):
    file.record({"key": 0})
    file.path.write_bytes(file.path.read_bytes()[:-1])
    assert [row["key"] for row in file.rows()] == [0]
    file.record({"key": 1})
    assert [row["key"] for row in file.rows()] == [0, 1]


def test_file_with_a_single_truncated_row_starts_again(file):
    file.path.parent.mkdir()
    file.path.write_text('{"key": 1')
    assert file.rows() == []
    file.record({"key": 2})
    assert [row["key"] for row in file.rows()] == [2]


@pytest.mark.parametrize("line", [0, 1, 2])
def test_damaged_line_is_refused_with_its_number(file, line):
    for key in range(3):
        file.record({"key": key})
    lines = file.path.read_text().splitlines()
    lines[line] = lines[line][:-3]
    file.path.write_text("\n".join(lines) + "\n")
    with pytest.raises(
        InputError, match=rf"line {line + 1} of .*some.jsonl is not valid JSON"
    ) as caught:
        file.rows()
    assert "\n" not in str(caught.value)


def test_full_disk_keeps_earlier_rows(file, monkeypatch):
    file.record({"key": "a"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        with pytest.raises(
            InputError, match=r"^cannot write .*some\.jsonl \(No space left on device\): make room"
        ):
            file.record({"key": "b"})
    file.record({"key": "c"})
    assert [row["key"] for row in file.rows()] in (["a", "c"], ["a", "b", "c"])


def test_key_depends_on_everything_that_changes_results():
    run = toy_trial("GMVAE", 0.5, "smoke")
    keys = {
        run.key(0),
        run.key(1),
        toy_trial("GMVAE", 7.5, "smoke").key(0),
        toy_trial("GMVAE", 0.5, "small").key(0),
        toy_trial("LIDMVAE", 0.5, "smoke").key(0),
        Fit(run.model, run.estimator, {**run.arguments, "max_epochs": 3}, run.data).key(0),
        Fit(run.model, "VAE", {}, run.data).key(0),
    }
    assert len(keys) == 7
    assert None not in run.config()["arguments"].values()  # New arguments are None in older rows.
    assert Fit(
        "another name", run.estimator, dict(reversed(run.arguments.items())), run.data, keep=True
    ).key(0) == run.key(0)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_trials_of_an_experiment_are_distinct_with_known_arguments(name, scale):
    runs = EXPERIMENTS[name].trials(scale)
    assert len({run.key(0) for run in runs}) == len(runs)
    for run in (run for run in runs if isinstance(run, Fit)):
        accepted = getattr(uc, run.estimator)().get_params()
        assert set(run.arguments) <= set(accepted), run.model
        assert run.data["name"] in {*GENERATORS, *NAMED}
    assert EXPERIMENTS[name].seeds[scale] >= 1
    assert published_notes(name).startswith("- ")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_published_rows_have_keys_of_the_experiments(name):
    """New arguments must not change the keys of published rows."""
    rows = ResultsFolder(Path(__file__).parents[1] / "results" / f"{name}-small.jsonl").rows()
    trials = EXPERIMENTS[name].trials("small")
    assert rows
    assert {row["key"] for row in rows} <= {
        trial.key(seed) for trial in trials for seed in range(3)
    }


def test_data_depend_on_the_seed_and_test_differs_from_training():
    data = {"name": "two-gaussians", "sigma": 0.5, "n_per_class": 50, "n_test": 30}
    (train, test, _), (again, *_), (other, *_) = (load_trial_data(data, seed) for seed in (0, 0, 1))
    assert (len(train.X), len(test.X), len(test.labels)) == (100, 30, 30)
    assert np.array_equal(train.X, again.X)
    assert not np.isin(train.X, other.X).any()
    assert not np.isin(test.X, train.X).any()
    assert np.array_equal(test.X.mean(1) > 5, test.labels == 1)


def test_random_rows_keep_their_labels():
    digits = {"name": "digits", "n_train": 40, "n_test": 20}
    train, test, _ = load_trial_data(digits, 3)
    whole = uc.data.load("digits")
    assert (len(train.X), len(test.X)) == (40, 20)
    for row, label in zip(train.X, train.labels, strict=True):
        assert label in whole.labels[(row == whole.X).all(1)]


def test_documents_are_short_enough_and_have_validation_data(monkeypatch):
    words = uc.data.Data(np.array(["a b", "a", "a b c d", "b"], dtype=object))
    monkeypatch.setattr(experiment, "load", lambda name, part: words)
    train, test, validation = load_trial_data(
        {"name": "yelp", "part": "validation", "max_words": 2, "n_test": 2}, 0
    )
    assert train.X.tolist() == ["a b", "a", "b"]
    assert set(test.X) < set(train.X)
    assert validation is None
    assert load_trial_data({"name": "synthetic-text"}, 0).validation is words


def test_correlation_share_of_true_latents_and_of_a_lost_one():
    sentences = synthetic_text("test").X
    known = type("Known", (), {"transform": lambda self, X: true_latents("test")[: len(X)]})()
    assert correlation_share(known, sentences) == pytest.approx(1 / max(TEST_TRUTH.correlations))
    order = np.random.default_rng(0).permutation(2000)
    known.transform = lambda X: true_latents("test")[order] @ np.diag([1.0, 1, 1, 1, 0])
    assert correlation_share(known, sentences[order]) == pytest.approx(0, abs=1e-6)


def test_means_and_deviations_over_seeds():
    assert mean_and_deviation(pd.Series([1.0, 2.0, 6.0]), 2) == "3.00 ± 2.65"
    assert mean_and_deviation(pd.Series([math.nan, 2.0]), 1) == "2.0"
    results = pd.DataFrame(
        {
            "model": ["b", "a", "b"],
            "seed": [0, 0, 1],
            "seconds": [1.0, 5.0, 3.0],
            "kl": [1.0, 7.0, 2.0],
        }
    )
    table = over_seeds(results, ["model"], {"KL": "kl", "absent": "nowhere"}, digits=1)
    assert table.to_dict("records") == [
        {"model": "b", "KL": "1.5 ± 0.7", "seeds": 2, "seconds": 2},
        {"model": "a", "KL": "7.0", "seeds": 1, "seconds": 5},
    ]


def test_published_numbers_stand_beside_ours_and_rivals_below():
    ours = pd.DataFrame({"data": ["d", "e"], "model": ["A", "A"], "NLL": ["1.0", "2.0"]})
    printed = pd.DataFrame(
        {
            "data": ["e", "d"],
            "model": ["A", "B"],
            "nll": [9.0, 8.0],
            "source": ["table 1", "table 2"],
        }
    )
    table = beside(ours, printed, ["data", "model"], "P26")
    assert table.columns.tolist() == ["data", "model", "NLL", "P26: nll"]
    assert table.fillna("").to_numpy().tolist() == [
        ["d", "A", "1.0", ""],
        ["e", "A", "2.0", 9.0],
        ["d", "B", "", 8.0],
    ]
    markdown = to_markdown("Title", table, "- a note", "1 run").splitlines()
    assert markdown[0] == "# Title"
    assert markdown[2:7] == [
        "| data | model | NLL | P26: nll |",
        "|---|---|---|---|",
        "| d | A | 1.0 |  |",
        "| e | A | 2.0 | 9.0 |",
        "| d | B |  | 8.0 |",
    ]


@pytest.mark.parametrize(
    ("name", "where", "column", "value"),
    [
        ("k23-images", {"data": "fashion-mnist", "model": "IL-LIDMVAE, L = 1.5"}, "nll", 234.4),
        ("k23-images", {"data": "fashion-mnist", "model": "IL-LIDMVAE, L = 1.5"}, "kl", 11.0),
        ("k23-images", {"data": "fashion-mnist", "model": "LIDMVAE, L = 0"}, "kl", 9.5),
        ("k23-images", {"data": "fashion-mnist", "model": "IL-LIDMVAE, L = 5"}, "nll", 243.7),
        ("k23-images", {"data": "omniglot", "model": "IL-LIDMVAE annealed"}, "nll", 117.7),
        ("w21-images", {"data": "fashion-mnist", "model": "LIDGMVAE"}, "ll", -242.3),
        ("w21-images", {"data": "fashion-mnist", "model": "GMVAE"}, "ll", -258.8),
        ("w21-images", {"data": "mnist", "model": "LIDGMVAE"}, "kl", 1.8),
        ("w21-pinwheel", {"model": "LIDGMVAE", "layers": 9}, "mi", 2.2),
        ("w21-pinwheel", {"model": "GMVAE", "layers": 9}, "kl", 1.4e-6),
    ],
)
def test_published_numbers(name, where, column, value):
    numbers = published_numbers(name)
    found = numbers[
        np.logical_and.reduce([numbers[key] == wanted for key, wanted in where.items()])
    ]
    assert found[column].tolist() == [value]


@pytest.mark.parametrize("name", [path.stem for path in PUBLISHED.glob("*.csv")])
def test_models_with_published_numbers_have_our_names(name):
    """Otherwise their numbers would stand below ours instead of beside them."""
    numbers, ours = (
        published_numbers(name),
        {run.model for run in EXPERIMENTS[name].trials("paper")},
    )
    rivals = {"VAE of W21", "SA-VAE", "Lagging VAE", "beta-VAE (0.2)", "clustered autoencoder"}
    assert set(numbers["model"]) - rivals <= ours
    assert numbers["source"].str.contains("table|section").all()
    assert not numbers.duplicated(
        numbers.columns.intersection(["data", "model", "layers"]).tolist()
    ).any()


def colored_share(path):
    """Return the share of colored pixels; axes and their labels are grey."""
    pixels = imread(path)[..., :3]
    return (np.ptp(pixels, axis=-1) > 0.2).mean()


@pytest.fixture
def fewer_runs(monkeypatch):
    """Run two models at two noises only."""
    kept = ("GMVAE", "IL-LIDMVAE, L = 5")
    for model in set(TOY_MODELS) - set(kept):
        monkeypatch.delitem(TOY_MODELS, model)
    monkeypatch.setattr("uncollapse.experiments.papers.k23.SHOWN_MODELS", kept)


@pytest.mark.slow
def test_finished_experiment_is_not_repeated(fewer_runs, tmp_path, monkeypatch, command_line):
    command = ("k23-toy", "--scale", "smoke", "--seeds", "1", "-o", tmp_path)
    code, out, err = command_line("reproduce", *command)
    assert (code, err) == (0, "")
    assert "trial 4 of 4: IL-LIDMVAE, L = 5, sigma 7.5, seed 0" in out
    lines = (tmp_path / "k23-toy-smoke.jsonl").read_bytes()
    rows = [json.loads(line) for line in lines.splitlines()]
    assert len(rows) == 4
    assert all(
        row["environment"]["uncollapse"] == uc.__version__ and row["seed"] == 0 for row in rows
    )
    assert [row["constants"] for row in rows] == [None, [5.0]] * 2

    table = pd.read_csv(tmp_path / "k23-toy-smoke.csv")
    assert table["Bayes optimum"].tolist() == [1.0, 1.0, 0.827, 0.827]
    accuracies = [row["estimates"]["matched_accuracy"]["value"] for row in rows]
    assert np.allclose(table["accuracy"], accuracies, atol=6e-4)
    assert np.allclose(
        table["share of the Bayes optimum"],
        accuracies / table["sigma"].map(bayes_accuracy),
        atol=6e-4,
    )
    text = (tmp_path / "k23-toy-smoke.md").read_text()
    assert text.startswith("# K23 section 5.1")
    assert "4 runs, seeds 0; commit" in text
    for figure in ("figure-1", "figure-2-and-4"):
        assert colored_share(tmp_path / f"k23-toy-smoke-{figure}.png") > 0.002

    code, out, err = command_line("reproduce", *command)
    assert code == 2
    assert err.startswith("error: ")
    assert "holds 4 trials. Resume them with --resume, or choose another --output." in err
    assert err.count("\n") == 1
    assert (tmp_path / "k23-toy-smoke.jsonl").read_bytes() == lines

    monkeypatch.setattr(Fit, "execute", lambda *args: pytest.fail("computed again"))
    code, out, err = command_line("reproduce", *command, "--resume")
    assert (code, err) == (0, "")
    assert "trial 1" not in out
    assert (tmp_path / "k23-toy-smoke.jsonl").read_bytes() == lines


@pytest.mark.slow
def test_interrupted_experiment_resumes(fewer_runs, tmp_path, monkeypatch):
    said = []
    whole = reproduce("k23-toy", "smoke", output=tmp_path, options=telling(said))
    path = tmp_path / "k23-toy-smoke.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:100])
    said.clear()
    again = reproduce("k23-toy", "smoke", output=tmp_path, resume=True, options=telling(said))
    assert [line for line in said if line.startswith("trial ")] == [
        "trial 1 of 2: GMVAE, sigma 7.5, seed 0",
        "trial 2 of 2: IL-LIDMVAE, L = 5, sigma 7.5, seed 0",
    ]
    kept, new = lines[:2], path.read_text().splitlines(keepends=True)
    assert new[:2] == kept
    for before, after in zip(map(json.loads, lines), map(json.loads, new), strict=True):
        for name in ("key", "training_loss", "estimates"):
            assert before[name] == after[name]
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), whole.drop(columns="seconds"))
    more = reproduce(
        "k23-toy", "smoke", seeds=2, output=tmp_path, resume=True, options=telling(said)
    )
    assert more["seeds"].tolist() == [2] * 4
    assert len(path.read_text().splitlines()) == 8
    path.write_text(
        "".join(path.read_text().splitlines(keepends=True)[::-1])
    )  # Tables do not depend on the order of the file.
    few = reproduce(
        "k23-toy", "smoke", seeds=1, output=tmp_path, resume=True, options=telling(said)
    )
    pd.testing.assert_frame_equal(few.drop(columns="seconds"), whole.drop(columns="seconds"))
    assert not any("lack" in line for line in said)


def test_failure_is_raised_after_the_others_are_published(
    fewer_runs, tmp_path, command_line, monkeypatch
):
    execute = Fit.execute

    def fail(trial, *others):
        if trial.model == "GMVAE":
            raise InputError("no room.")
        return execute(trial, *others)

    monkeypatch.setattr(Fit, "execute", fail)
    code, _, err = command_line("reproduce", "k23-toy", "--scale", "smoke", "-o", tmp_path)
    assert (code, err) == (
        2,
        "error: 2 trials gave no result. Repeat them with --resume: GMVAE, sigma 0.5, seed "
        "0: no room.\n",
    )
    assert "GMVAE" not in set(pd.read_csv(tmp_path / "k23-toy-smoke.csv")["model"])


@pytest.mark.slow
def test_figure_is_not_redrawn_without_its_models(fewer_runs, tmp_path):
    said = []
    reproduce("k23-toy", "smoke", output=tmp_path, options=telling(said))
    shutil.rmtree(tmp_path / "models")
    curves, drawn = (
        tmp_path / f"k23-toy-smoke-{name}.png" for name in ("figure-1", "figure-2-and-4")
    )
    picture = drawn.read_bytes()
    curves.write_bytes(b"")
    reproduce("k23-toy", "smoke", output=tmp_path, resume=True, options=telling(said))
    assert drawn.read_bytes() == picture
    assert curves.read_bytes() != b""
    assert (
        f"note: {drawn} is not redrawn without 4 fitted models, which are missing in "
        f"{tmp_path / 'models'}" in said
    )

    drawn.unlink()
    reproduce("k23-toy", "smoke", output=tmp_path, resume=True, options=telling(said))
    assert (
        f"note: {drawn} lacks 4 fitted models, which are missing in {tmp_path / 'models'}" in said
    )
    assert drawn.exists()


def test_rows_of_other_experiments_are_copied(tmp_path, monkeypatch):
    common = [
        run
        for run in EXPERIMENTS["w21-images"].trials("small")
        if run.labels["data"] == "fashion-mnist" and run.model in MODELS
    ]
    depths = EXPERIMENTS["w21-depth"].trials("small")
    assert {run.key(0) for run in common} == {
        run.key(0) for run in depths if run.labels["layers"] == 9
    }
    rows = [
        {
            "key": run.key(0),
            "model": f"{run.model} of depth",
            "labels": run.labels,
            "seed": 0,
            "seconds": 1.0,
            "constants": None,
            "estimates": {"nll_nats": {"value": float(index)}},
            "environment": environment("cpu"),
        }
        for index, run in enumerate(common)
    ]
    ResultsFolder(tmp_path / "w21-depth-small.jsonl").record(rows[0])
    ResultsFolder(tmp_path / "w21-depth-small.jsonl").record(rows[1])
    done, said = [], []

    def execute(run, seed, folder, verbose, on_epoch=None):
        done.append((run.labels["data"], run.model))
        return None, {**rows[0], "key": run.key(seed), "model": run.model, "labels": run.labels}

    monkeypatch.setattr(Fit, "execute", execute)
    monkeypatch.setitem(
        EXPERIMENTS,
        "w21-images",
        dataclasses.replace(EXPERIMENTS["w21-images"], table=lambda results: results),
    )
    table = reproduce("w21-images", "small", seeds=1, output=tmp_path, options=telling(said))
    assert said[0] == f"2 trials taken from {tmp_path / 'w21-depth-small.jsonl'}"
    assert len(table) == 21
    assert table["model"].tolist()[:2] == [run.model for run in common[:2]]
    assert table["nll_nats"].tolist()[:2] == [0.0, 1.0]
    models = (*MODELS, "VAE", "SA-VAE", "Lagging VAE", "beta-VAE (0.2)")
    assert (
        done
        == [(data, model) for data in ("fashion-mnist", "mnist", "omniglot") for model in models][
            2:
        ]
    )


def test_unknown_experiments_and_scales_are_refused(tmp_path, command_line):
    for arguments, words in (
        (("k99-toy",), "there is no experiment 'k99-toy': expected one of k23-toy, k23-images"),
        (("k23-toy", "--scale", "huge"), "scale expects one of smoke, small, paper, got 'huge'"),
        (("k23-toy", "--seeds", "0"), "--seeds"),
    ):
        code, _, err = command_line("reproduce", *arguments, "-o", tmp_path / "out")
        assert code == 2
        assert words in err
        assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_killed_experiment_resumes(tmp_path, command_line):
    command = ["reproduce", "k23-toy", "--scale", "smoke", "-o", str(tmp_path)]
    path = tmp_path / "k23-toy-smoke.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", "from uncollapse.cli import main; main()", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (path.is_file() and path.read_bytes().count(b"\n") >= 2):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = path.read_bytes()
    code, out, _ = command_line(*command, "--resume")
    assert code == 0
    after = path.read_bytes()
    whole = before[: before.rfind(b"\n") + 1]
    assert after.startswith(whole)
    rows = [json.loads(line) for line in after.splitlines()]
    assert (
        len(rows)
        == len({row["key"] for row in rows})
        == len(EXPERIMENTS["k23-toy"].trials("smoke"))
    )
    left = len(rows) - len(whole.splitlines())
    assert f"trial {left} of {left}: " in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "models"),
    [
        ("w21-pinwheel", {"GMVAE", "LIDGMVAE", "IL-LIDMVAE"}),
        ("w21-one-cluster", {"GMVAE", "LIDGMVAE", "IL-LIDMVAE"}),
        ("k23-text", {"the true model", "VAE", "LIDSVAE, L = 0", "IL-LIDSVAE, L = 5"}),
    ],
)
def test_other_experiments_on_synthetic_data(name, models, tmp_path):
    table = reproduce(name, "smoke", output=tmp_path, options=telling([]))
    assert set(table["model"]) >= models
    for figure in EXPERIMENTS[name].figures:
        assert colored_share(tmp_path / f"{name}-smoke-{figure}.png") > 0.002


@pytest.mark.extra
@pytest.mark.parametrize(("name", "n_runs"), [("w21-ppca", 6), ("w21-gmm", 3)])
def test_experiments_by_sampling(name, n_runs, tmp_path):
    """Chains hardly mix at the smoke scale, which a warning says. Collapse is visible
    nevertheless."""
    pytest.importorskip("numpyro", reason="needs the extra 'mcmc'")
    with pytest.warns(UserWarning, match="chains have not mixed"):
        table = reproduce(name, "smoke", output=tmp_path, options=telling([]))
    assert len(table) == n_runs
    moves = [column for column in table if column.startswith("likelihood moves by")]
    at_prior = [column for column in table if "at the prior" in column]
    for moved, collapsed in zip(moves, at_prior, strict=True):
        nothing = table[moved].astype(float) == 0
        assert nothing.any()
        assert (table.loc[nothing, collapsed].astype(float) > 0.9).all()
    assert (table["divergences"].astype(float) == 0).all()
    for figure in EXPERIMENTS[name].figures:
        assert colored_share(tmp_path / f"{name}-smoke-{figure}.png") > 0.002
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampling, "execute", lambda *_: pytest.fail("computed again"))
        again = reproduce(name, "smoke", output=tmp_path, resume=True, options=telling([]))
    assert again.equals(table)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_models_and_objectives_of_the_paper_scale_fit(name):
    for run in (run for run in EXPERIMENTS[name].trials("paper") if isinstance(run, Fit)):
        kind = Estimator.registry[run.estimator]
        few = {
            key: [8] * len(value)
            for key, value in run.arguments.items()
            if key in ("hidden", "encoder_hidden")
        }
        few |= {key: 8 for key in ("hidden_dim", "embedding_dim") if key in run.arguments}
        settings = check_settings(run.estimator, {**run.arguments, **few})
        model = kind.build(settings, 80)
        get_objective(settings.objective).check(model, torch.zeros(2, 80))
