"""Running a run: data, training, and what is measured on the test data."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from uncollapse._version import __version__
from uncollapse.correlations import canonical_correlations
from uncollapse.data import Data, load
from uncollapse.data.synthetic import one_cluster, pinwheel, two_clusters, two_gaussians
from uncollapse.data.synthetic_text import TEST_TRUTH, synthetic_text, true_latents
from uncollapse.diagnostics import diagnose
from uncollapse.estimators import Estimator
from uncollapse.estimators.building import resolve_device
from uncollapse.noise import derived_seed
from uncollapse.reproduce.experiment import Fit, Run

SYNTHETIC: dict[str, Callable[..., Data]] = {
    "two-gaussians": two_gaussians,
    "pinwheel": pinwheel,
    "one-cluster": one_cluster,
    "two-clusters": two_clusters,
}
N_IMPORTANCE = 64


class Parts(NamedTuple):
    """The data of a run."""

    train: Data
    test: Data
    validation: Data | None = None


def load_parts(data: dict[str, Any], seed: int) -> Parts:
    """The data of a run.

    Args:
        data: a name, with the arguments of a generator, or with `n_train` and `n_test` rows to be taken at random; with
            `n_held_out` the test data alone are used, and so many of them are kept from training; of text, the `part` to train on,
            and the `max_words` of its documents.
        seed: of a generator, or of what is taken.
    """
    arguments = {key: value for key, value in data.items() if key != "name"}
    if data["name"] in SYNTHETIC:
        generate, n_test = SYNTHETIC[data["name"]], arguments.pop("n_test", None)
        train, test = (generate(seed=derived_seed(seed, part), **arguments) for part in ("train", "test"))
        return Parts(train, _some(test, n_test, seed))
    if "n_held_out" in arguments:
        whole = load(data["name"], "test")
        order = np.random.default_rng(derived_seed(seed, "rows")).permutation(len(whole.X))
        n = arguments["n_held_out"]
        return Parts(whole.take(order[n:][: arguments.get("n_train")]), whole.take(order[:n]))
    parts = [_short(load(data["name"], part), data) for part in (arguments.get("part", "train"), "test")]
    train, test = (_some(part, arguments.get(n), seed) for part, n in zip(parts, ("n_train", "n_test"), strict=True))
    validated = train.is_text and arguments.get("part", "train") == "train"  # upstream has a part for it
    return Parts(train, test, load(data["name"], "validation") if validated else None)


def _short(data: Data, wanted: dict[str, Any]) -> Data:
    """Documents of at most `max_words` words, if that is asked for."""
    if "max_words" not in wanted:
        return data
    return data.take(np.flatnonzero([len(document.split()) <= wanted["max_words"] for document in data.X]))


def _some(data: Data, n: int | None, seed: int) -> Data:
    if n is None or n >= len(data.X):
        return data
    return data.take(np.random.default_rng(derived_seed(seed, "rows")).permutation(len(data.X))[:n])


def fit_and_measure(run: Fit, seed: int, verbose: bool = True) -> tuple[Estimator, dict[str, Any]]:
    """Fit and measure.

    Returns:
        The fitted estimator and the row of results.
    """
    train, test, validation = load_parts(run.data, seed)
    estimator = Estimator.kinds[run.estimator](**run.arguments, random_state=seed, verbose=verbose)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X holds values strictly between 0 and 1")  # as intended
        held_out: dict[str, Any] = {} if validation is None else {"validation": validation.X}
        estimator.fit(train.X, **held_out)
    seconds = time.perf_counter() - start
    report = diagnose(estimator, test.X, test.labels, n_importance=N_IMPORTANCE, thorough=False, verbose=verbose)
    found = {name: vars(estimate) for name, estimate in report.estimates.items() if estimate is not None}
    if run.data["name"] == "synthetic-text":
        found["correlation_share"] = {"value": correlation_share(estimator, test.X), "standard_error": math.nan}
    last = estimator.history_.iloc[-1]
    row = {
        **identity(run, seed),
        "n_train": len(train.X),
        "n_test": len(test.X),
        "seconds": round(seconds, 2),
        "constants": estimator.inverse_lipschitz_,
        "training_loss": float(last["loss"]),
        "estimates": found,
        "environment": environment(resolve_device(estimator.device)),
    }
    return estimator, row


def correlation_share(estimator: Estimator, sentences: np.ndarray) -> float:
    """The least share, over the canonical correlations with the true latents, of what the exact posterior means reach."""
    order = {sentence: row for row, sentence in enumerate(synthetic_text("test").X)}
    latents = true_latents("test")[[order[sentence] for sentence in sentences]]
    reached = canonical_correlations(estimator.transform(sentences), latents)
    return float((reached / np.array(TEST_TRUTH.correlations)).min())


def failure(run: Run, seed: int, error: Exception) -> dict[str, Any]:
    """The row of a run that gave no result."""
    return {**identity(run, seed), "error": str(error), "environment": environment(run.device)}


def identity(run: Run, seed: int) -> dict[str, Any]:
    """What the row of a run begins with."""
    return {"key": run.key(seed), "model": run.model, "labels": run.labels, "config": run.config(), "seed": seed}


def environment(device: str) -> dict[str, Any]:
    """Where and with what a result was computed."""
    return {
        "finished": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "commit": _commit(),
        "uncollapse": __version__,
        "torch": torch.__version__,
        "lightning": version("lightning"),
        "zuko": version("zuko"),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{device}, {processor()}",
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


@cache
def processor() -> str:
    """The name of the processor, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@cache
def _commit() -> str | None:
    """The commit of the source tree, marked where it has been changed; None for an installed package."""
    here = Path(__file__).resolve().parents[3]
    if not (here / ".git").exists():
        return None
    try:
        hash_, changes = (
            subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--", "src"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{hash_}-dirty" if changes else hash_
