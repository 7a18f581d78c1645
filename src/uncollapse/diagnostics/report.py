"""The report on a model: what its latents carry, unit by unit and in total."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA

from uncollapse.diagnostics.certificates import model_information_floor
from uncollapse.diagnostics.collapse import (
    CAP_MARGIN,
    MAX_INFORMATION_ROWS,
    Estimate,
    Posteriors,
    active_units,
    explained_share,
    infer,
    informative_units,
    mutual_information,
)
from uncollapse.diagnostics.fisher import relative_fisher_divergence
from uncollapse.diagnostics.likelihood import importance_log_likelihood, observe_rows, to_device
from uncollapse.errors import InputError
from uncollapse.files import write_text
from uncollapse.models import VAE
from uncollapse.noise import RowNoise

# Examples that a report keeps for its pictures.
N_PICTURES = 10
N_POINTS = 2000

MEANINGS = {
    "nll_nats": "-log p(x), by importance sampling",
    "kl_nats": "KL(q(z|x) || p(z)), mean over the data",
    "mutual_information_nats": "I(x; z) under q; the estimate cannot exceed its cap, log n",
    "aggregate_kl_nats": "KL(q(z) || p(z)) = KL - I(x; z); unknown near the cap",
    "fisher_divergence": "F(p(z) || p(z|x)), mean over the data",
    "active_units": "Var E[z|x] >= 0.01 (Burda et al. 2016)",
    "informative_units": "at least 1% of the unit's variance comes from x",
    "information_floor_nats": "guaranteed I(x; z) of the model; known for Gaussian decoders",
}


class Fitted(Protocol):
    """A fitted estimator, as far as a diagnosis needs it."""

    model_: VAE
    history_: pd.DataFrame

    def check_rows(self, X: Any) -> np.ndarray:
        """Rows as float32, or an `InputError`."""


@dataclass(frozen=True)
class Gallery:
    """Data beside what the model makes of them.

    Attributes:
        originals: shape (n, d).
        reconstructions: means of p(x|z) at the posterior means of the originals, the same shape.
        samples: means of p(x|z) at z drawn from the prior, the same shape.
        image_shape: (height, width) where a row is an image.
    """

    originals: np.ndarray
    reconstructions: np.ndarray
    samples: np.ndarray
    image_shape: tuple[int, int] | None


@dataclass(frozen=True)
class Report:
    """What `diagnose` found.

    Attributes:
        name: of the model.
        n_examples: rows that were looked at.
        verdict: "healthy", "partly collapsed" or "collapsed".
        advice: the verdict in a sentence, with its evidence and what to do.
        estimates: by the names of `MEANINGS`; None where nothing is known.
        units: a row for each latent unit.
        history: the training, a row for each epoch.
        points: posterior means in two dimensions (their principal ones, if there are more), at most 2,000.
        labels: of the points, or None.
        gallery: for pictures.
    """

    name: str
    n_examples: int
    verdict: str
    advice: str
    estimates: dict[str, Estimate | None]
    units: pd.DataFrame
    history: pd.DataFrame
    points: np.ndarray
    labels: np.ndarray | None
    gallery: Gallery

    def summary(self) -> pd.DataFrame:
        """A row for each quantity: ``value``, ``standard_error`` (NaN where it has none) and ``meaning``. Nats per example."""
        known = {name: estimate or Estimate(math.nan, math.nan) for name, estimate in self.estimates.items()}
        rows = [(estimate.value, estimate.standard_error, MEANINGS[name]) for name, estimate in known.items()]
        return pd.DataFrame(rows, index=list(known), columns=["value", "standard_error", "meaning"])

    def to_json(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the numbers, without the pictures.

        Raises:
            InputError: if the file exists and `overwrite` is False, or cannot be written.
        """
        content = {
            "name": self.name,
            "n_examples": self.n_examples,
            "verdict": self.verdict,
            "advice": self.advice,
            "estimates": {name: estimate and vars(estimate) for name, estimate in self.estimates.items()},
            "units": self.units.to_dict(orient="records"),
        }
        return write_text(path, json.dumps(_finite(content), indent=2) + "\n", overwrite)

    def to_html(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write one page that needs nothing else, no network either.

        Raises:
            InputError: if the file exists and `overwrite` is False, or cannot be written.
        """
        from uncollapse.diagnostics.page import render_page

        return write_text(path, render_page([self], title=f"Report on {self.name}"), overwrite)

    def __repr__(self) -> str:
        table = self.summary()
        table["standard_error"] = table["standard_error"].map(lambda error: "" if math.isnan(error) else f"± {error:.2g}")
        table["value"] = table["value"].map(lambda value: "unknown" if math.isnan(value) else f"{value:.4g}")
        lines = table.rename(columns={"standard_error": ""}).to_string(index_names=False)
        return f"Report on {self.name}: {self.n_examples} examples, {len(self.units)} latent units\n{self.advice}\n{lines}"


def diagnose(
    model: Fitted,
    X: Any,
    labels: Any = None,
    *,
    name: str | None = None,
    image_shape: tuple[int, int] | None = None,
    n_importance: int = 64,
    verbose: bool = True,
) -> Report:
    """Measure how much a fitted estimator's latents say about data.

    Args:
        model: a fitted estimator of this package.
        X: data, preferably not those of the training, shape (n, n_features) with n >= 2.
        labels: for colours in the picture of the latents, shape (n,).
        name: what to call the model.
        image_shape: (height, width) if the rows are images.
        n_importance: importance samples for each example.
        verbose: show a progress bar where there is a terminal.

    Raises:
        InputError: if the data do not suit the model, or the labels or the image shape do not suit the data.

    >>> import numpy as np, uncollapse as uc
    >>> X = np.random.default_rng(0).normal(size=(200, 3)) @ np.diag([3.0, 2.0, 0.1])
    >>> report = uc.diagnose(uc.VAE(latent_dim=1, max_epochs=5, random_state=0).fit(X), X)
    >>> report.verdict
    'healthy'
    """
    raw = model.check_rows(X)
    if len(raw) < 2:
        raise InputError(f"a diagnosis expects at least 2 rows, got {len(raw)}.")
    if labels is not None and len(labels) != len(raw):
        raise InputError(f"labels expect one for each of the {len(raw)} rows, got {len(labels)}.")
    if image_shape is not None and math.prod(image_shape) != raw.shape[1]:
        raise InputError(f"image_shape expects a height and a width with {raw.shape[1]} pixels in all, got {image_shape}.")
    vae = model.model_
    rows = observe_rows(vae.family, raw)
    posteriors = infer(vae, rows)
    log_likelihood = importance_log_likelihood(vae, rows, n_importance, verbose)
    units = _unit_table(posteriors)
    verdict, advice = _judge(units)
    return Report(
        name=name or type(model).__name__,
        n_examples=len(rows),
        verdict=verdict,
        advice=advice,
        estimates=_estimate(vae, rows, posteriors, log_likelihood),
        units=units,
        history=model.history_,
        points=_in_two_dimensions(posteriors.means[:N_POINTS]),
        labels=None if labels is None else np.asarray(labels)[:N_POINTS],
        gallery=_gallery(vae, raw[:N_PICTURES], posteriors.means[:N_PICTURES], image_shape),
    )


def _estimate(model: VAE, rows: np.ndarray, posteriors: Posteriors, log_likelihood: np.ndarray) -> dict[str, Estimate | None]:
    kl = Estimate.mean_of(posteriors.kl.sum(1))
    some = slice(MAX_INFORMATION_ROWS)
    means, variances = posteriors.means[some], posteriors.variances[some]
    information = mutual_information(means, variances, RowNoise(rows[some], "information").normal(means.shape[1:]))
    capped = information.value > math.log(len(means)) - CAP_MARGIN
    aggregate = Estimate(float(posteriors.kl[some].sum(1).mean()) - information.value, information.standard_error)
    floor = model_information_floor(model)
    return {
        "nll_nats": Estimate.mean_of(-log_likelihood.astype(np.float64)),
        "kl_nats": kl,
        "mutual_information_nats": information,
        "aggregate_kl_nats": None if capped else aggregate,
        "fisher_divergence": relative_fisher_divergence(model, rows),
        "active_units": Estimate(float(active_units(posteriors.means).sum()), math.nan),
        "informative_units": Estimate(float(informative_units(posteriors.means, posteriors.variances).sum()), math.nan),
        "information_floor_nats": None if floor is None else Estimate(floor, math.nan),
    }


def _unit_table(posteriors: Posteriors) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "unit": np.arange(posteriors.kl.shape[1]),
            "kl_nats": posteriors.kl.mean(0).astype(float),
            "mean_variance": posteriors.means.var(0).astype(float),
            "explained_share": explained_share(posteriors.means, posteriors.variances).astype(float),
            "active": active_units(posteriors.means),
            "informative": informative_units(posteriors.means, posteriors.variances),
        }
    )


def _judge(units: pd.DataFrame) -> tuple[str, str]:
    dead = units.loc[~units["informative"], "unit"].tolist()
    evidence = f"the KL is {units['kl_nats'].sum():.3g} nats"
    if not dead:
        return "healthy", f"Healthy: all {len(units)} latent units respond to the data; {evidence}."
    remedy = "set or raise inverse_lipschitz, or use fewer units"
    if len(dead) == len(units):
        return "collapsed", f"Collapsed: none of the {len(units)} latent units responds to the data; {evidence}. Remedy: {remedy}."
    named = ", ".join(map(str, dead[:8])) + (", ..." if len(dead) > 8 else "")
    return (
        "partly collapsed",
        f"Partly collapsed: {len(dead)} of {len(units)} latent units do not respond to the data ({named}); {evidence}. "
        f"Remedy: {remedy}.",
    )


def _in_two_dimensions(means: np.ndarray) -> np.ndarray:
    if means.shape[1] <= 2:
        return np.pad(means, ((0, 0), (0, 2 - means.shape[1])))
    with np.errstate(invalid="ignore"):  # wholly collapsed means have no shares of variance
        return np.asarray(PCA(2, svd_solver="full").fit_transform(means))


@torch.inference_mode()
def _gallery(model: VAE, originals: np.ndarray, means: np.ndarray, image_shape: tuple[int, int] | None) -> Gallery:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        z = model.prior().sample((len(originals),))
    reconstructions, samples = (model.likelihood(code).mean.cpu().numpy() for code in (to_device(model, means), z))
    return Gallery(originals, reconstructions, samples, image_shape)


def _finite(content: Any) -> Any:
    """The same content with NaN, which JSON lacks, as null."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
