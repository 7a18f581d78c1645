"""What goes into bug reports, and the self-test, which must fail where something is broken."""

import math
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest

import uncollapse as uc
from uncollapse.estimators import VAE
from uncollapse.estimators.loading import load as load_run
from uncollapse.experiments import doctor as doctor
from uncollapse.maps import InverseLipschitzDecoder

DEVELOPMENT = {"test", "browser", "lint", "fuzz", "dev"}


def test_the_command_prints_every_section_and_passes(command_line, monkeypatch, tmp_path):
    monkeypatch.setenv("UNCOLLAPSE_DATA", str(tmp_path / "nowhere"))
    code, out, err = command_line("doctor")
    assert (code, err) == (0, "")
    assert re.search(rf"^  uncollapse +{re.escape(uc.__version__)}$", out, re.MULTILINE)
    assert re.search(r"^  numpy +" + re.escape(np.__version__) + "$", out, re.MULTILINE)
    assert re.search(r"^  CPU +.+ logical cores, torch on \d+ threads$", out, re.MULTILINE)
    assert re.search(
        rf"^  UNCOLLAPSE_DATA +{re.escape(str(tmp_path))}/nowhere \(missing\)$",
        out,
        re.MULTILINE,
    )
    assert re.search(r"^  digits +needs no files$", out, re.MULTILINE)
    assert re.search(r"^self-test\n  ok, \d+\.\d s\n\Z", out, re.MULTILINE)


def test_the_self_test_takes_seconds():
    start = time.perf_counter()
    assert doctor.self_test() is None
    assert time.perf_counter() - start < 5


def test_versions_are_told_without_imports_and_for_every_extra(monkeypatch):
    code = (
        "import sys, uncollapse.experiments.doctor as d; d.versions(); "
        "print({'torch', 'numpy', 'pyarrow', 'onnx'} & {*sys.modules})"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "set()"
    )
    project = tomllib.loads(
        (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    )["project"]
    named = {
        extra: tuple(re.match(r"[\w-]+", requirement).group() for requirement in requirements)
        for extra, requirements in project["optional-dependencies"].items()
        if extra not in DEVELOPMENT
    }
    assert named == doctor.EXTRAS
    monkeypatch.setattr(doctor, "EXTRAS", {"nothing": ("no-such-package",)})
    assert doctor.versions()["no-such-package (nothing)"] == "not installed"


def test_devices_and_places_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "memory_bytes", lambda: 3 * 2**29)
    assert doctor.devices()["memory"] == "1.5 GiB"
    monkeypatch.setattr(doctor, "memory_bytes", lambda: math.inf)
    assert doctor.devices()["memory"] == "unknown"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("UNCOLLAPSE_DATA", raising=False)
    assert doctor.data_places()["UNCOLLAPSE_DATA"] == "not set"
    assert doctor.data_places()["cache"] == f"{tmp_path}/uncollapse (missing)"
    (tmp_path / "uncollapse").mkdir()
    assert doctor.data_places()["cache"] == f"{tmp_path}/uncollapse"


def break_constant(monkeypatch):
    monkeypatch.setattr(InverseLipschitzDecoder, "constant", property(lambda decoder: 100.0))


def break_training(monkeypatch):
    fit = VAE.fit

    def fit_backwards(vae, X):
        fit(vae, X)
        vae.history_["loss"] = vae.history_["loss"].to_numpy()[::-1]
        return vae

    monkeypatch.setattr(VAE, "fit", fit_backwards)


def break_arithmetic(monkeypatch):
    monkeypatch.setitem(doctor.MODEL, "learning_rate", 1e30)


def break_loading(monkeypatch):
    def load(folder):
        loaded = load_run(folder)
        next(loaded.model_.posterior.parameters()).mul_(1.01)
        return loaded

    monkeypatch.setattr("uncollapse.estimators.load", load)


@pytest.mark.parametrize(
    ("break_something", "words"),
    [
        (break_constant, "less than its constant 100"),
        (break_training, "in 5 epochs, not down"),
        (break_arithmetic, "cannot be trained, saved and loaded (NonFiniteLossError: "),
        (break_loading, "the latents of a small model change when it is saved and loaded"),
    ],
)
def test_what_is_broken_is_said_in_a_sentence(command_line, monkeypatch, break_something, words):
    break_something(monkeypatch)
    code, out, err = command_line("doctor")
    assert code == 1
    assert "versions" in out
    assert err.startswith("error: self-test: ")
    assert words in err
    assert err.count("\n") == 1
