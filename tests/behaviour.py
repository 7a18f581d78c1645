"""Record the parameters of short fits and the numbers of reports, so that a change of structure
shows.

Run `python -m tests.behaviour` from the root of the repository to write `tests/behaviour.json`
anew, and say in CHANGELOG why: the recorded numbers are what an earlier version computed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import uncollapse as uc

RECORD = Path(__file__).with_suffix(".json")
WORDS = ("the", "a", "cat", "dog", "bird", "sat", "ran", "slept", "here", "there")
SHORT = {"max_epochs": 2, "batch_size": 50, "random_state": 0, "device": "cpu", "verbose": False}
SMALL = {"latent_dim": 2, "hidden": (8,), **SHORT}
SENTENCE = {"latent_dim": 2, "hidden": (8,), "hidden_dim": 8, "embedding_dim": 6, **SHORT}


def rows() -> np.ndarray:
    """Gaussian rows of 5 correlated columns, shape (200, 5)."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5)) + np.repeat(
        [[0.0], [4.0]], 100, axis=0
    )


def bits() -> np.ndarray:
    """Zeros and ones, shape (200, 6)."""
    rng = np.random.default_rng(1)
    return (
        rng.normal(size=(200, 2)) @ rng.normal(size=(2, 6)) + rng.normal(size=(200, 6)) > 0
    ).astype(np.float32)


def greys() -> np.ndarray:
    """Numbers in [0, 1], which family "bernoulli" binarizes, shape (200, 6)."""
    return np.random.default_rng(2).uniform(size=(200, 6)).astype(np.float32)


def counts() -> np.ndarray:
    """Counts, shape (200, 4)."""
    return np.random.default_rng(3).poisson(3, size=(200, 4)).astype(np.float32)


def sentences() -> list[str]:
    """Sentences of 3 to 6 words."""
    rng = np.random.default_rng(4)
    return [" ".join(rng.choice(WORDS, size=rng.integers(3, 7))) for _ in range(200)]


FITS: dict[str, tuple[Callable[[], Any], Callable[[], Any], dict[str, Any]]] = {
    "vae": (lambda: uc.VAE(**SMALL), rows, {}),
    "ordinary": (lambda: uc.VAE(inverse_lipschitz=None, **SMALL), rows, {}),
    "padding, annealing": (
        lambda: uc.VAE(family="bernoulli", embedding="padding", annealing=True, **SMALL),
        greys,
        {},
    ),
    "target_kl": (lambda: uc.VAE(family="poisson", target_kl=1.0, **SMALL), counts, {}),
    "realnvp": (lambda: uc.VAE(family="bernoulli", posterior="realnvp", **SMALL), bits, {}),
    "free bits, learned": (
        lambda: uc.VAE(objective="free_bits", embedding="learned", **SMALL),
        rows,
        {},
    ),
    "importance weighted": (lambda: uc.VAE(objective="importance_weighted", **SMALL), rows, {}),
    "latent reconstruction": (
        lambda: uc.VAE(objective="latent_reconstruction", inverse_lipschitz=None, **SMALL),
        rows,
        {},
    ),
    "semi-amortized": (
        lambda: uc.VAE(strategy={"semi_amortized": {"n_steps": 2}}, **SMALL),
        rows,
        {},
    ),
    "lagging": (lambda: uc.VAE(strategy="lagging", inverse_lipschitz=None, **SMALL), rows, {}),
    "ridge, bounded": (lambda: uc.VAE(potential="ridge", lipschitz=3.0, **SMALL), rows, {}),
    "one map, floor": (lambda: uc.VAE(min_information=3.0, **{**SMALL, "latent_dim": 5}), rows, {}),
    "budget": (lambda: uc.VAE(**SMALL), rows, {"budget": 300}),
    "mixture": (lambda: uc.MixtureVAE(n_components=2, **SMALL), rows, {}),
    "enumerated": (
        lambda: uc.MixtureVAE(inference="enumerate", prior="learned", **SMALL),
        rows,
        {},
    ),
    "sequence": (lambda: uc.SequenceVAE(word_dropout=0.2, **SENTENCE), sentences, {}),
    "additive": (
        lambda: uc.SequenceVAE(
            context="additive", posterior="pooled-lstm", target_kl=1.0, **SENTENCE
        ),
        sentences,
        {},
    ),
    "committed": (
        lambda: uc.SequenceVAE(committed_rate=0.1, inverse_lipschitz=None, **SENTENCE),
        sentences,
        {},
    ),
}
REPORTS = ("vae", "enumerated", "sequence")


def fit(name: str) -> Any:
    """Fit one of `FITS`."""
    make, data, arguments = FITS[name]
    if "budget" in arguments:
        arguments = {"budget": uc.Budget(evaluations=arguments["budget"])}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X holds values strictly between")
        return make().fit(data(), **arguments)


def describe_fit(name: str) -> dict[str, Any]:
    """Two numbers for each tensor of a fitted model, its history, and what it says of its data."""
    model = fit(name)
    data = FITS[name][1]()
    return {
        "parameters": {
            key: _fingerprint(value) for key, value in sorted(model.model_.state_dict().items())
        },
        "constants": model.inverse_lipschitz_,
        "history": model.history_.drop(columns="seconds").to_numpy().tolist(),
        "codes": _fingerprint(torch.as_tensor(model.transform(data))),
        "scores": _fingerprint(torch.as_tensor(model.score_samples(data[:20], n_importance=8))),
        "samples": _sampled(model),
    }


def describe_report(name: str) -> dict[str, Any]:
    """The numbers and words of a report on a fitted model."""
    report = uc.diagnose(fit(name), FITS[name][1](), verbose=False)
    estimates = {
        key: None if value is None else value.value for key, value in report.estimates.items()
    }
    return {"verdict": report.verdict, "advice": report.advice, "estimates": estimates}


def describe() -> dict[str, Any]:
    """All fits and reports."""
    fits = {name: describe_fit(name) for name in FITS}
    return {"fits": fits, "reports": {name: describe_report(name) for name in REPORTS}}


def _fingerprint(tensor: torch.Tensor) -> list[float]:
    """The mean and a weighted mean of a tensor, which tells an order of its values from another."""
    values = tensor.detach().double().flatten().cpu()
    weights = torch.cos(torch.arange(len(values), dtype=torch.float64))
    return [float(values.mean()), float((weights * values).mean())]


def _sampled(model: Any) -> Any:
    drawn = model.sample(3, random_state=0)
    return drawn if isinstance(drawn, list) else np.asarray(drawn, dtype=np.float64).tolist()


if __name__ == "__main__":
    torch.set_num_threads(1)
    RECORD.write_text(json.dumps(describe(), indent=1) + "\n")
