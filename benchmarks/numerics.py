"""`python -m benchmarks.numerics --runs 200`: outcomes of random trainings.

Many of them are ill-conditioned.
"""

from __future__ import annotations

import inspect
import math
import re
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import typer
from scipy.special import expit

from benchmarks.timing import print_row
from uncollapse._utils.errors import InputError, NonFiniteLossError
from uncollapse.estimators import VAE, Estimator, MixtureVAE, SequenceVAE
from uncollapse.families import FAMILIES
from uncollapse.objectives import OBJECTIVES

FINITE, ROLLED_BACK, REFUSED, FAILED = (
    "finite",
    "non-finite step, reported and rolled back",
    "refused",
    "FAILED",
)
KINDS: tuple[type[Estimator], ...] = (VAE, MixtureVAE, SequenceVAE)
KIND_SHARES = (0.5, 0.4, 0.1)
MAX_CONSTANT, MAX_WIDTH, MAX_DEPTH, MAX_RATE = 20.0, 1024, 9, 1e-2
N_ROWS, N_STEPS = 300, 100
N_IMPORTANCE = 4
# Limit of random logits and log rates, so that float32 can represent all counts.
MAX_LOG = 8.0
# Distance from 0 and 1 of data strictly between them.
MARGIN = 1e-6
# The message of a failed training has to name the step and a remedy.
PLACE, REMEDY = re.compile(r"step \d+"), "Lower "


@dataclass(frozen=True)
class Run:
    """A random training.

    Attributes:
        kind: class of the estimator.
        arguments: of the estimator.
        X: data.
        data: properties of the data.
    """

    kind: type[Estimator]
    arguments: dict[str, Any]
    X: Any
    data: dict[str, Any]


def draw_run(chance: np.random.Generator) -> Run:
    """Draw a training."""
    kind = KINDS[chance.choice(len(KINDS), p=KIND_SHARES)]
    X, family, data = draw_documents(chance) if kind is SequenceVAE else draw_rows(chance)
    batch_size = round(log_uniform(chance, 8, 256))
    arguments: dict[str, Any] = {
        **family,
        # A few cases have too many latent units.
        "latent_dim": round(log_uniform(chance, 1, min(32, 1.2 * data["natural_dim"]))),
        "inverse_lipschitz": draw_constant(chance, data["takes_constants"]),
        "hidden": (round(log_uniform(chance, 8, MAX_WIDTH)),)
        * int(chance.integers(1, MAX_DEPTH + 1)),
        "objective": draw_objective(chance),
        "learning_rate": float(f"{log_uniform(chance, 1e-4, MAX_RATE):.3g}"),
        "batch_size": batch_size,
        "max_epochs": int(np.clip(N_STEPS * batch_size // len(X), 2, 12)),
        "random_state": int(chance.integers(2**32)),
    }
    precision = ("float32", "bfloat16")[chance.integers(2)]
    if "precision" in inspect.signature(kind).parameters:
        arguments["precision"] = precision
    if kind is MixtureVAE:
        arguments |= {
            "n_components": int(chance.integers(2, 8)),
            "inference": str(chance.choice(("marginal", "enumerate"))),
            "prior": str(chance.choice(("separated", "learned", "full"))),
        }
    if kind is SequenceVAE:
        arguments |= {
            "hidden_dim": round(log_uniform(chance, 8, 128)),
            "embedding_dim": round(log_uniform(chance, 4, 64)),
            "context": str(chance.choice(("joint", "additive"))),
        }
    return Run(kind, arguments, X, data)


def log_uniform(chance: np.random.Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform."""
    return float(np.exp(chance.uniform(math.log(low), math.log(high))))


def draw_constant(chance: np.random.Generator, takes_constants: bool) -> float:
    """Draw L from 0 to the maximum, both of which are frequent.

    Most families with a link get 0, because they take no other constant.
    """
    if not takes_constants and chance.random() < 0.9:
        return 0.0
    return float(
        chance.choice(
            (0.0, MAX_CONSTANT, round(log_uniform(chance, 0.01, MAX_CONSTANT), 3)),
            p=(0.2, 0.15, 0.65),
        )
    )


def draw_objective(chance: np.random.Generator) -> Any:
    """Draw an objective, or None in half of the cases."""
    return None if chance.random() < 0.5 else str(chance.choice(list(OBJECTIVES)))


def draw_documents(
    chance: np.random.Generator,
) -> tuple[list[np.ndarray], dict[str, Any], dict[str, Any]]:
    """Draw sequences of tokens with unequal frequencies."""
    n_symbols, n_documents = (
        round(log_uniform(chance, 4, 200)),
        round(log_uniform(chance, 10, N_ROWS)),
    )
    shares = 1 / np.arange(1, n_symbols + 1) ** chance.uniform(0, 2)
    lengths = chance.integers(1, 20, n_documents)
    documents = [chance.choice(n_symbols, length, p=shares / shares.sum()) for length in lengths]
    n_known = sum(
        count > 1
        for count in Counter(int(symbol) for document in documents for symbol in document).values()
    )
    data = {
        "n_rows": n_documents,
        "n_symbols": n_symbols,
        "natural_dim": n_known + 1,
        "takes_constants": True,
    }
    return documents, {}, data


def draw_rows(chance: np.random.Generator) -> tuple[np.ndarray, dict[str, Any], dict[str, Any]]:
    """Draw rows that suit a family.

    Scales are arbitrary; some data have few rows, heavy tails or constant columns.
    """
    name = str(chance.choice(list(FAMILIES)))
    arguments = draw_family_arguments(chance, name)
    n_rows = (
        int(chance.integers(2, 12)) if chance.random() < 0.15 else int(chance.integers(50, N_ROWS))
    )
    n_features = round(log_uniform(chance, 1, 64))
    scaled = str(chance.choice(("no", "all alike", "by column")))
    n_scales = {"no": 0, "all alike": 1, "by column": n_features}[scaled]
    scales = 10 ** chance.uniform(-3, 3, n_scales) if n_scales else np.ones(1)
    tails = str(chance.choice(("light", "heavy")))
    spread = chance.standard_normal((n_rows, 3)) @ chance.standard_normal(
        (3, n_features)
    ) + chance.uniform(-3, 3, n_features)
    noise = (
        chance.standard_t(2, spread.shape)
        if tails == "heavy"
        else chance.standard_normal(spread.shape)
    )
    n_constant = int(chance.integers(1, n_features + 1)) if chance.random() < 0.25 else 0
    rows = to_support(chance, name, arguments, spread + noise, scales)
    rows[:, :n_constant] = rows[0, :n_constant]
    family = FAMILIES[name](**arguments)
    data = {
        "n_rows": n_rows,
        "n_features": n_features,
        "scaled": scaled,
        "scales": [float(f"{bound:.3g}") for bound in (scales.min(), scales.max())],
        "tails": tails,
        "n_constant": n_constant,
        "natural_dim": family.natural_dim(n_features),
        "takes_constants": family.fills_space,
    }
    return rows, {"family": {name: arguments}}, data


def draw_family_arguments(chance: np.random.Generator, name: str) -> dict[str, Any]:
    """Draw arguments of a family, and sometimes a scale that does not fit the data."""
    if name == "categorical":
        return {"n_categories": int(chance.integers(2, 12))}
    if name == "negative_binomial":
        return {"dispersion": float(f"{log_uniform(chance, 0.1, 100):.3g}")}
    return {"scale": 1.0} if name == "gaussian" and chance.random() < 0.2 else {}


def to_support(
    chance: np.random.Generator,
    name: str,
    arguments: dict[str, Any],
    real: np.ndarray,
    scales: np.ndarray,
) -> np.ndarray:
    """Return data of a family from real numbers of size 1 and scales."""
    if name in ("gaussian", "heteroscedastic_gaussian"):
        return real * scales
    if name in ("poisson", "negative_binomial"):
        return chance.poisson(scales * np.exp(real.clip(-MAX_LOG, MAX_LOG))).astype(float)
    if name == "exponential":
        return scales * np.exp(real.clip(-MAX_LOG, MAX_LOG))
    shares = expit(real * scales)
    if name == "categorical":
        return np.minimum(
            np.floor(shares * arguments["n_categories"]), arguments["n_categories"] - 1
        )
    if name == "beta":
        return shares.clip(MARGIN, 1 - MARGIN)
    return (shares > chance.random(shares.shape)).astype(float) if name == "bernoulli" else shares


def row_of(run: Run) -> dict[str, Any]:
    """Run the training, and return its row."""
    estimator = run.kind(**run.arguments, device="cpu", verbose=False)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcome, message = fit(estimator, run.X)
        found = (
            {}
            if outcome == REFUSED or not hasattr(estimator, "model_")
            else look_at(estimator, run.X)
        )
    if outcome in (FINITE, ROLLED_BACK):
        wrong = what_is_wrong(outcome, message, found)
        outcome, message = (
            (FAILED, "; ".join((*wrong, message or ""))) if wrong else (outcome, message)
        )
    return {
        "kind": run.kind.__name__,
        **run.arguments,
        "precision": run.arguments.get("precision", "float32"),
        "data": run.data,
        "outcome": outcome,
        "message": message,
        "seconds": round(time.perf_counter() - start, 2),
        **found,
        "warnings": sorted(
            {str(each.message) for each in caught if issubclass(each.category, RuntimeWarning)}
        ),
    }


def fit(estimator: Estimator, X: Any) -> tuple[str, str | None]:
    """Return the outcome of a training, and its message."""
    try:
        estimator.fit(X)
    except InputError as error:
        return REFUSED, str(error)
    except NonFiniteLossError as error:
        return ROLLED_BACK, str(error)
    except Exception as error:  # Unexpected errors are what this benchmark looks for.
        place = traceback.extract_tb(error.__traceback__)[-1]
        return FAILED, f"{type(error).__name__} in {place.name}, line {place.lineno}: {error}"
    return FINITE, None


def look_at(estimator: Estimator, X: Any) -> dict[str, Any]:
    """Return losses of a training, and whether its results are finite."""
    losses, kl = (estimator.history_[name].astype(float) for name in ("loss", "kl"))
    numbers = {
        "first_loss": losses.head(1),
        "peak_loss": losses.nlargest(1),
        "loss": losses.tail(1),
        "kl": kl.tail(1),
    }
    return {
        "epochs": len(losses),
        **{
            name: float(f"{value.item():.6g}") if len(value) else None
            for name, value in numbers.items()
        },
        "parameters_finite": all(
            bool(value.isfinite().all()) for value in estimator.model_.state_dict().values()
        ),
        "means_finite": is_finite(estimator.transform, X),
        "scores_finite": is_finite(lambda rows: estimator.score_samples(rows, N_IMPORTANCE), X),
    }


def is_finite(function: Callable[[Any], np.ndarray], X: Any) -> bool | str:
    """Return whether a function of data is finite, or the error that it raises."""
    try:
        return bool(np.isfinite(function(X)).all())
    except Exception as error:
        return repr(error)


def what_is_wrong(outcome: str, message: str | None, found: dict[str, Any]) -> list[str]:
    """Return what is wrong after a training that ended well, or that reported a failure."""
    complaints = {"parameters are not finite": found["parameters_finite"] is not True}
    if outcome == FINITE:
        complaints["posterior means are not finite"] = found["means_finite"] is not True
        complaints["scores are not finite"] = found["scores_finite"] is not True
    else:
        complaints["the message names no step"] = not PLACE.search(message or "")
        complaints["the message names no remedy"] = REMEDY not in (message or "")
    return [complaint for complaint, holds in complaints.items() if holds]


def main(
    runs: int = 200,
    seed: Annotated[int, typer.Option(help="Seed of the random trainings.")] = 0,
    first: Annotated[int, typer.Option(help="Number of the first run, to repeat one alone.")] = 0,
) -> None:
    """Print one JSON line for each run, and one that counts the outcomes."""
    torch.set_num_threads(1)
    outcomes: Counter[str] = Counter()
    for index in range(first, first + runs):
        row = row_of(draw_run(np.random.default_rng((seed, index))))
        outcomes[row["outcome"]] += 1
        print_row(benchmark="numerics", seed=seed, run=index, **row)
    print_row(benchmark="numerics", seed=seed, runs=runs, outcomes=dict(outcomes))


if __name__ == "__main__":
    typer.run(main)
