"""The command line as a user meets it: what it prints, where it writes, and how it fails."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

import uncollapse as uc
from uncollapse._utils import run_folders
from uncollapse.estimators.settings import SETTINGS, list_settings

SMALL = ["max_epochs=2", "hidden=8,8", "random_state=0"]


@pytest.fixture
def run(tmp_path, monkeypatch, command_line):
    """Runs a command in an empty folder; returns its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).normal(size=(100, 4)))

    return command_line


def test_fit_and_diagnose(run, tmp_path, short_diagnoses):
    code, out, err = run("fit", "x.npy", *SMALL, "inverse_lipschitz=0.3,0.6")
    assert (code, err) == (0, "")
    assert "100 rows, 4 features" in out
    assert "seed 0" in out
    assert "saved in runs/x; next: uncollapse diagnose runs/x x.npy" in out
    assert uc.load("runs/x").model_.decoder.constants == (0.3, 0.6)
    code, out, _ = run("diagnose", "runs/x", "x.npy")
    assert code == 0
    assert "nll_nats" in out
    assert json.loads((tmp_path / "runs/x/report.json").read_text())["n_examples"] == 100
    assert (tmp_path / "runs/x/report.html").read_text().startswith("<!doctype html>")


def test_a_diagnosis_is_begun_anew(run, tmp_path):
    run("fit", "x.npy", *SMALL, "-o", "run")
    code, _, err = run("diagnose", "run", "x.npy", "--resume")
    assert code == 2
    assert err.count("\n") == 1
    assert "a diagnosis cannot be resumed: it takes seconds to minutes and begins anew" in err
    assert run("diagnose", "run", "x.npy", "--quick")[0] == 0
    assert "already exists" in run("diagnose", "run", "x.npy", "--quick")[2]
    (tmp_path / "run/.uncollapse-abc").mkdir()  # a killed command may leave this in a run
    assert run("fit", "x.npy", *SMALL, "-o", "run", "--overwrite")[0] == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "model.json",
        "model.safetensors",
        "history.csv",
        "log.jsonl",
    }


@pytest.mark.slow
def test_a_mixture_is_fitted_diagnosed_and_certified(run, tmp_path, short_diagnoses):
    frame = pd.DataFrame(np.load("x.npy"), columns=list("abcd")).assign(kind=["u", "v"] * 50)
    frame.to_csv("x.csv", index=False)
    words = ("--labels", "kind")
    code, out, err = run(
        "fit",
        "x.csv",
        "--model",
        "MixtureVAE",
        *SMALL,
        "n_components=3",
        "warmup_epochs=1",
        *words,
        "-o",
        "run",
    )
    assert (code, err) == (0, "")
    assert "2 epochs in" in out
    loaded = uc.load("run")
    assert type(loaded) is uc.MixtureVAE
    assert loaded.model_.prior.n_components == 3
    code, out, _ = run("diagnose", "run", "x.csv", *words)
    assert code == 0
    assert "component_information_nats" in out
    assert (
        0.3
        < json.loads((tmp_path / "run/report.json").read_text())["estimates"]["matched_accuracy"][
            "value"
        ]
        <= 1
    )
    code, out, _ = run("certify", "run", "x.csv", *words, "--n-samples", "8")
    assert code == 0
    assert "above their bounds on every example" in out


def test_compare(run, tmp_path):
    pd.DataFrame(np.load("x.npy"), columns=list("abcd")).assign(kind=["u", "v"] * 50).to_csv(
        "x.csv", index=False
    )
    words = (
        "compare",
        "x.csv",
        "--models",
        "VAE, IL-LIDVAE",
        *SMALL,
        "--labels",
        "kind",
        "--n-importance",
        "8",
    )
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    assert "80 rows of 4 features to train on; 20 others, 20% of all, held out at random" in out
    assert "VAE trains for 2 epochs" in out
    assert "written: compare-x.html, compare-x.csv" in out
    table = pd.read_csv("compare-x.csv")
    assert table["model"].tolist() == ["VAE", "IL-LIDVAE"] * 2
    assert table["evaluations"][:2].tolist() == [160, 160]
    assert table["probe_accuracy"].between(0, 1).all()
    assert "80 rows of 4 features" in (tmp_path / "compare-x.html").read_text(encoding="utf-8")
    code, _, err = run(*words)
    assert (code, "compare-x.html already exists" in err) == (2, True)
    (tmp_path / "compare-x.html").unlink()
    code, _, err = run(*words)
    assert (code, "compare-x.csv already exists" in err) == (2, True)
    assert run(*words, "--overwrite")[0] == 0


def test_a_warning_is_said_once(run):
    np.save("grey.npy", np.random.default_rng(0).uniform(size=(50, 4)).astype(np.float32))
    _, _, err = run(
        "compare", "grey.npy", "-m", "VAE,LIDVAE", *SMALL, "family=bernoulli", "--n-importance", "8"
    )
    assert err.count("dynamic binarization") == 1


def test_an_interrupted_comparison_is_written(run, monkeypatch):
    import uncollapse.experiments.compare

    whole = uncollapse.experiments.compare.run_comparison

    def interrupted(*args, **kwargs):
        entries = whole(*args, **kwargs)
        yield next(entries)
        yield next(entries)
        raise KeyboardInterrupt

    monkeypatch.setattr("uncollapse.experiments.compare.run_comparison", interrupted)
    code, _, err = run(
        "compare", "x.npy", "--models", "VAE,LIDVAE,IL-LIDVAE", *SMALL, "--output", "page.html"
    )
    assert (code, err) == (130, "error: interrupted; the results so far are written\n")
    assert pd.read_csv("page.csv")["model"].tolist() == ["VAE", "LIDVAE"]


@pytest.mark.slow
def test_certify(run, tmp_path):
    run("fit", "x.npy", *SMALL, "latent_dim=2", "min_information=2")
    code, out, _ = run(
        "certify", "runs/x", "x.npy", "--n-samples", "8", "--n-importance", "64", "--seed", "3"
    )
    assert code == 0
    assert "100 examples, 8 draws of z, seed 3" in out
    assert "above their bounds on every example" in out
    content = json.loads((tmp_path / "runs/x/certificate.json").read_text())
    assert len(content["examples"]["fisher_bound"]) == 100
    assert content["estimates"]["information_floor_nats"]["value"] == pytest.approx(2)
    code, _, err = run("certify", "runs/x", "x.npy")
    assert code == 2
    assert "certificate.json" in err
    code, _, err = run("certify", "runs/x", "x.npy", "--json", "runs/x/model.json", "--overwrite")
    assert (code, "belongs to the run" in err) == (2, True)
    assert run("fit", "x.npy", *SMALL, "--overwrite")[0] == 0  # a certificate is part of a run


@pytest.mark.slow
def test_named_data_bring_their_settings_and_their_split(run, short_diagnoses):
    code, _, _ = run("fit", "digits", *SMALL)
    assert code == 0
    assert uc.load("runs/digits").latent_dim == 16
    _, out, _ = run("diagnose", "runs/digits", "digits")
    assert "450 examples" in out
    _, out, _ = run("diagnose", "runs/digits", "digits", "--split", "train", "--overwrite")
    assert "1,347 examples" in out


def test_settings_on_the_line_go_over_those_of_the_file(run, tmp_path):
    (tmp_path / "c.yaml").write_text(
        "max_epochs: 1\nhidden: [8]\nlatent_dim: 3\nfamily: {gaussian: {scale: 0.5}}\n"
    )
    assert run("fit", "x.npy", "--config", "c.yaml", "latent_dim=1", "--output", "here")[0] == 0
    loaded = uc.load("here")
    assert (loaded.latent_dim, loaded.max_epochs, loaded.model_.family.fixed_scale) == (1, 1, 0.5)


@pytest.mark.slow
def test_feature_names_are_kept_and_checked(run, short_diagnoses):
    frame = pd.DataFrame(np.load("x.npy"), columns=list("abcd")).assign(kind="u")
    frame.to_csv("my data.csv", index=False)
    code, out, _ = run("fit", "my data.csv", *SMALL, "-o", "run", "--labels", "kind")
    assert code == 0
    assert "next: uncollapse diagnose run 'my data.csv' --labels kind" in out
    assert run("diagnose", "run", "my data.csv", "--labels", "kind")[0] == 0
    frame[["d", "c", "b", "a"]].to_csv("other.csv", index=False)
    code, _, err = run("diagnose", "run", "other.csv", "--overwrite")
    assert code == 2
    assert "in the same order" in err


def test_a_run_that_cannot_be_saved_is_saved_elsewhere(run, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "refuge"))
    (tmp_path / "refuge").mkdir()
    write = run_folders.write_run

    def full(folder, *args, **kwargs):
        if "refuge" not in str(folder):
            raise uc.InputError("cannot write (No space left on device)")
        write(folder, *args, **kwargs)

    monkeypatch.setattr("uncollapse._utils.run_folders.write_run", full)
    code, _, err = run("fit", "x.npy", *SMALL)
    assert code == 1
    assert "No space left" in err
    saved = next((tmp_path / "refuge").rglob("model.json")).parent
    assert f"The trained model is in {saved}" in err
    assert uc.load(saved).seed_ == 0


def test_none_and_null_give_the_ordinary_decoder(run):
    for index, word in enumerate(("None", "null")):
        assert run("fit", "x.npy", *SMALL, f"inverse_lipschitz={word}", "-o", f"run{index}")[0] == 0
        assert uc.load(f"run{index}").inverse_lipschitz is None


def test_grey_levels_are_announced(run):
    np.save("grey.npy", np.random.default_rng(0).uniform(size=(50, 4)))
    code, _, err = run("fit", "grey.npy", *SMALL, "family=bernoulli")
    assert code == 0
    assert err.startswith("note: X holds values strictly between 0 and 1")


def bad(name, content):
    """Writes a file, whose name then stands in the command."""
    if isinstance(content, bytes):
        with open(name, "wb") as file:
            file.write(content)
    else:
        np.save(name, content)
    return name


BAD_INPUT = {
    "negative constant": (
        lambda: ["fit", "x.npy", "inverse_lipschitz=-1"],
        "inverse_lipschitz expects a number from 0 to 1e6",
    ),
    "unknown parameter": (lambda: ["fit", "x.npy", "latent_dims=3"], "did you mean 'latent_dim'"),
    "a width beside a parameter of sequences": (
        lambda: ["fit", "x.txt", "hidden_dim=8", "hidden=8"],
        "hidden expects a list",
    ),
    "no equals sign": (lambda: ["fit", "x.npy", "latent_dim"], "KEY=VALUE"),
    "broken value": (lambda: ["fit", "x.npy", "hidden=[8"], "cannot be read"),
    "text for a number": (
        lambda: ["fit", "x.npy", "max_epochs=many"],
        "max_epochs expects a positive integer, got 'many'",
    ),
    "too many latents": (
        lambda: ["fit", "x.npy", "latent_dim=9"],
        "latent_dim <= natural dimension",
    ),
    "missing file": (lambda: ["fit", "nowhere.npy"], "there is no file"),
    "unknown data": (lambda: ["fit", "nowhere"], "there is no data set"),
    "empty file": (lambda: ["fit", bad("empty.csv", b"")], "is empty"),
    "text": (lambda: ["fit", bad("text.csv", b"a,b\n1,x\n2,y\n")], "text where numbers belong"),
    "one row": (lambda: ["fit", bad("one.npy", np.zeros((1, 4)))], "at least 2 rows"),
    "nan": (lambda: ["fit", bad("nan.npy", np.full((5, 4), np.nan))], "20 NaN"),
    "infinite": (lambda: ["fit", bad("inf.npy", np.full((5, 4), np.inf))], "20 infinite"),
    "support": (
        lambda: ["fit", bad("two.npy", 2 * np.ones((5, 4))), "family=bernoulli"],
        r"values in [0, 1]",
    ),
    "missing configuration": (
        lambda: ["fit", "x.npy", "--config", "no.yaml"],
        "there is no configuration file",
    ),
    "broken configuration": (
        lambda: ["fit", "x.npy", "--config", bad("c.yaml", b"a: [")],
        "not valid YAML",
    ),
    "listed configuration": (
        lambda: ["fit", "x.npy", "--config", bad("c.yaml", b"- a")],
        "lines of `key: value`, got list",
    ),
    "no run": (lambda: ["diagnose", ".", "x.npy"], "holds no saved model"),
    "columns": (
        lambda: ["diagnose", "run", bad("y.npy", np.zeros((5, 3)))],
        "X has 3 features, but VAE is expecting 4",
    ),
    "label column": (
        lambda: ["fit", bad("a.csv", b"a,b\n1,2\n"), "--labels", "c"],
        "no column 'c'",
    ),
    "existing run": (lambda: ["fit", "x.npy", "-o", "run"], "already exists"),
    "existing page": (lambda: ["demo", "-o", "x.npy"], "already exists"),
    "no data": (lambda: ["fit"], "Missing argument"),
    "no such option": (lambda: ["fit", "x.npy", "--sped"], "No such option"),
    "no such command": (lambda: ["fits", "x.npy"], "No such command"),
    "empty value": (lambda: ["fit", "x.npy", "inverse_lipschitz="], "KEY=VALUE"),
    "wrong tag": (lambda: ["fit", "x.npy", "latent_dim=!!int abc"], "cannot be read"),
    "truth for a number": (
        lambda: ["fit", "x.npy", "latent_dim=true"],
        "latent_dim expects a positive integer, got True",
    ),
    "labels of a named set": (lambda: ["fit", "digits", "--labels", "k"], "leave them out"),
    "unwritable": (lambda: ["fit", "x.npy", "-o", "x.npy/run"], "cannot write"),
    "long name": (lambda: ["fit", "x.npy", "-o", "a" * 300], "cannot write"),
    "the data's own folder": (
        lambda: ["fit", "run/x.npy", "-o", "run", "--overwrite"],
        "holds something else",
    ),
    "the run's own file": (
        lambda: ["diagnose", "run", "x.npy", "--json", "run/model.json", "--overwrite"],
        "belongs to the run",
    ),
    "a folder with more": (
        lambda: ["fit", "x.npy", "-o", "run", "--overwrite"],
        "holds something else",
    ),
    "too wide": (lambda: ["fit", "x.npy", "hidden=2147483647,2147483647"], "narrower"),
    "one file for two": (
        lambda: ["diagnose", "run", "x.npy", "--html", "a", "--json", "a"],
        "two files",
    ),
    "no number of devices": (
        lambda: ["diagnose", "run", "x.npy", "--devices", "all"],
        "or 'auto', got 'all'",
    ),
    "unknown model": (lambda: ["fit", "x.npy", "-m", "GMVAE"], "VAE, got 'GMVAE'."),
    "another model's argument": (lambda: ["fit", "x.npy", "n_components=3"], "n_components"),
    "one component": (
        lambda: ["fit", "x.npy", "-m", "MixtureVAE", "n_components=1"],
        "n_components expects an integer from 2 to 10,000, got 1",
    ),
    "a single model": (
        lambda: ["compare", "x.npy", "--models", "VAE"],
        "two or more distinct models",
    ),
    "unknown model of a comparison": (
        lambda: ["compare", "x.npy", "-m", "VAE,IL-LIDVEA"],
        "did you mean 'IL-LIDVAE'?",
    ),
    "a setting of use to none": (
        lambda: ["compare", "x.npy", "-m", "VAE,LIDVAE", "n_components=3"],
        "apply to none of VAE, LIDVAE",
    ),
    "a comparison over another file": (
        lambda: ["compare", "x.npy", "-m", "VAE,LIDVAE", "-o", bad("a.html", b"")],
        "already exists",
    ),
    "a seed that is none": (
        lambda: ["compare", "x.npy", "-m", "VAE,LIDVAE", "random_state=abc"],
        "random_state expects",
    ),
    "a comparison over its data": (
        lambda: [
            "compare",
            bad("a.csv", b"a,b\n" + b"1,2\n" * 20),
            "-m",
            "VAE,LIDVAE",
            "-o",
            "a.html",
            "--overwrite",
        ],
        "is read by the comparison",
    ),
    "a table for a page": (
        lambda: ["compare", "x.npy", "-m", "VAE,LIDVAE", "-o", "a.csv"],
        "such as a.html",
    ),
    "few rows to compare on": (
        lambda: ["compare", bad("few.npy", np.eye(3)), "-m", "VAE,LIDVAE"],
        "at least 10",
    ),
    "unknown set to fetch": (lambda: ["data", "fetch", "cifar"], "there is no data set 'cifar'"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_ends_in_one_sentence_and_code_2(run, tmp_path, case):
    assert run("fit", "x.npy", *SMALL, "-o", "run")[0] == 0
    shutil.copy("x.npy", "run/x.npy")
    command, words = BAD_INPUT[case]
    arguments = command()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, _, err = run(*arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_of_a_newer_version_is_refused(run, tmp_path):
    run("fit", "x.npy", *SMALL, "-o", "run")
    settings = json.loads((tmp_path / "run/model.json").read_text())
    (tmp_path / "run/model.json").write_text(
        json.dumps(settings | {"format": 99, "version": "9.0"})
    )
    code, _, err = run("diagnose", "run", "x.npy")
    assert code == 2
    assert "saved by uncollapse 9.0 in format 99" in err


def test_an_existing_run_is_noticed_before_training(run):
    run("fit", "x.npy", *SMALL)
    code, out, _ = run("fit", "x.npy", *SMALL)
    assert (code, out) == (2, "")


def test_overwrite_replaces(run):
    for _ in range(2):
        assert run("fit", "x.npy", *SMALL, "--overwrite")[0] == 0


def test_an_unexpected_error_is_a_sentence_too(run, monkeypatch):
    def surprise(*_, **__):
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr("uncollapse.data.load", surprise)
    code, _, err = run("fit", "x.npy")
    assert code == 1
    assert "unexpected ZeroDivisionError: surprise" in err
    monkeypatch.setenv("UNCOLLAPSE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run("fit", "x.npy")


def test_a_non_finite_loss_saves_the_last_good_state(run):
    code, _, err = run("fit", "x.npy", *SMALL, "learning_rate=1.0e+30")
    assert code == 1
    assert "Lower learning_rate" in err
    assert "saved in runs/x" in err
    assert np.isfinite(uc.load("runs/x").transform(np.load("x.npy"))).all()


HEAVY = {"torch", "lightning", "matplotlib", "pandas", "sklearn", "plotly", "ray", "jax", "numpy"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--help"], None),
        (["sweep", "--help"], None),
        (["fit", "--help"], None),
        (["fit", "nowhere", "latent_dims=8"], "did you mean 'latent_dim'?"),
        (["fit", "nowhere", "latent_dim=0"], "latent_dim expects a positive integer, got 0."),
        (["fit", "nowhere", "--model", "GMVAE"], "SequenceVAE, got 'GMVAE'."),
        (["fit", "nowhere", "--config", "c.yaml"], "did you mean 'latent_dim'?"),
        (["compare", "nowhere", "latent_dims=8"], "did you mean 'latent_dim'?"),
        (["compare", "nowhere", "-m", "VAE,LIDVEA"], "did you mean 'LIDVAE'?"),
        (["compare", "nowhere", "-m", "VAE,LIDSVAE", "latent_dim=0"], "latent_dim expects a"),
        (["sweep", "nowhere", "latent_dims=4,8"], "did you mean 'latent_dim'?"),
        (["sweep", "nowhere", "latent_dim=4,0"], "latent_dim expects a positive integer, got 0."),
        (["sweep", "nowhere", "learning_rat=.1..1", "--search", "3"], "mean 'learning_rate'?"),
    ],
)
def test_help_and_wrong_arguments_are_answered_before_heavy_imports(tmp_path, words, sentence):
    (tmp_path / "c.yaml").write_text("latent_dims: 8\n")
    code = (
        "import sys\nfrom uncollapse.cli import main\ntry:\n    main()\n"
        f"finally:\n    print('imported', sorted({HEAVY} & set(sys.modules)))"
    )
    call = [sys.executable, "-c", code, *words]
    found = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == (0 if sentence is None else 2)
    assert found.stdout.endswith("imported []\n")
    assert (sentence or "") in found.stderr


def test_every_public_name_is_found_where_the_table_says():
    assert all(hasattr(uc, name) for name in uc.__all__)
    assert {"VAE", "fit", "measures", "certificates", "networks", "__version__"} <= {*dir(uc)}
    with pytest.raises(AttributeError, match="no attribute 'VEA'"):
        uc.VEA  # noqa: B018


def test_the_help_of_fit_lists_every_setting_with_its_default(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run("fit", "--help")
    assert code == 0
    for model in SETTINGS:
        assert f"Settings of {model}" in out
        for setting in list_settings(model):
            assert re.search(rf"^ {setting.name} +\S+ +{re.escape(setting.help[:20])}", out, re.M)


def test_data_list_says_where_things_are(run, monkeypatch, tmp_path):
    monkeypatch.setenv("UNCOLLAPSE_DATA", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run("data", "list")
    assert code == 0
    assert "digits" in out
    assert "4 of 4 files to fetch" in out
    assert run("data", "fetch", "digits")[1].strip() == "digits is ready"


@pytest.mark.slow
@pytest.mark.parametrize("wait", [0, 3])
def test_ctrl_c_leaves_a_loadable_run(tmp_path, wait):
    """At once, before the first step, and in the middle."""
    X = np.random.default_rng(0).normal(size=(2000, 4))
    np.save(tmp_path / "x.npy", X)
    command = [
        sys.executable,
        "-c",
        "from uncollapse.cli import main; main()",
        "fit",
        "x.npy",
        "max_epochs=100000",
        "hidden=8,8",
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert "training" in process.stdout.readline()
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)  # impatience must not cost the run
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted in epoch" in err
    assert "Traceback" not in err
    restored = uc.load(tmp_path / "runs" / "x")
    assert np.isfinite(restored.transform(X)).all()
    assert len(restored.history_) > 0


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_fit_goes_on_where_it_was_ended(run, tmp_path, how):
    """And leaves the run that it would have left without. What is not killed runs in this
    process."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(1000, 4)))
    fit = ["fit", "x.npy", "max_epochs=60", "hidden=8,8", "random_state=0", "batch_size=50"]
    assert run(*fit, "-o", "whole")[0] == 0
    process = subprocess.Popen(
        [sys.executable, "-c", "from uncollapse.cli import main; main()", *fit],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert "training" in process.stdout.readline()
    unfinished = tmp_path / "runs" / "x.unfinished"
    while not (unfinished / "training.state.pt").exists():
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (143 if how == signal.SIGTERM else -9)
    assert how == signal.SIGKILL or "terminated in epoch" in err
    code, _, err = run(*fit)
    assert code == 2
    there = (
        "already exists"
        if how == signal.SIGTERM
        else "resume it (--resume), or delete it (--overwrite)"
    )
    assert there in err
    assert run(*fit, "--resume")[0] == 0
    files = {path.name for path in (tmp_path / "runs" / "x").iterdir()}
    assert files == {"model.safetensors", "model.json", "history.csv", "log.jsonl"}
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["x"]
    whole, resumed = (uc.load(tmp_path / name) for name in ("whole", "runs/x"))
    assert all(
        torch.equal(value, resumed.model_.state_dict()[name])
        for name, value in whole.model_.state_dict().items()
    )
    code, out, _ = run(*fit, "--resume")
    assert (code, "is complete: there is nothing to resume" in out) == (0, True)


@pytest.mark.slow
def test_demo_shows_a_collapse_and_its_cure(run, tmp_path):
    code, out, err = run("demo")
    assert (code, err) == (0, "")
    assert "collapsed" in out
    assert "healthy" in out
    page = (tmp_path / "uncollapse-demo.html").read_text()
    assert "seed 0" in page
    assert page.count("<figure") >= 15


@pytest.mark.slow
def test_the_verdicts_of_the_demo_do_not_hang_on_its_seed(tmp_path, monkeypatch):
    from uncollapse.experiments.demo import MODELS, run_demo

    monkeypatch.delitem(MODELS, "LIDVAE")  # It is promised neither of the verdicts.
    ordinary, constrained = run_demo(tmp_path / "demo.html", seed=1, tell=lambda _: None)
    assert ordinary.verdict == "collapsed in the model"
    assert ordinary.estimates["supported_units"].value == 0
    assert constrained.verdict == "healthy"
    assert constrained.estimates["kl_nats"].value > 100 * ordinary.estimates["kl_nats"].value
    assert isinstance(constrained.summary(), pd.DataFrame)
