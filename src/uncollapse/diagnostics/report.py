"""The report on a model: what its latents carry, unit by unit and in total."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA

from uncollapse.diagnostics.clustering import (
    component_information_density,
    live_components,
    majority_accuracy,
    matched_accuracy,
)
from uncollapse.diagnostics.collapse import (
    CAP_MARGIN,
    Estimate,
    Posteriors,
    active_units,
    by_unit,
    explained_share,
    infer,
    informative_units,
    some_information_density,
)
from uncollapse.diagnostics.fisher import relative_fisher_divergence
from uncollapse.diagnostics.information import model_information_floor
from uncollapse.diagnostics.likelihood import importance_log_likelihood
from uncollapse.diagnostics.probe import linear_probe
from uncollapse.diagnostics.summary import Findings, Fitted, FittedToSequences, as_fitted, summary_text
from uncollapse.errors import InputError
from uncollapse.files import write_text
from uncollapse.inputs import check_count
from uncollapse.latent import CategoricalLayer, ComponentPosterior, GaussianMixture
from uncollapse.models import VAE, SequenceVAE, observe_rows, to_device
from uncollapse.noise import seeded
from uncollapse.progress import spinner

# Examples that a report keeps for its pictures.
N_PICTURES = 10
N_POINTS = 2000
# Numeric labels with more values than this are a scale, not classes.
MAX_CLASSES = 20
# A component that tells less than this about x is dead.
DEAD_COMPONENT_NATS = 0.01

MEANINGS = {
    "nll_nats": "-log p(x), by importance sampling",
    "kl_nats": "KL(q(z|x) || p(z)), mean over the data; with the component y where the prior has several",
    "kl_y_nats": "its part KL(q(y|x) || 1/c), of the component",
    "kl_z_nats": "the rest, of z given the component",
    "mutual_information_nats": "I(x; z) under q",
    "information_cap_nats": "log n, which the estimate of I(x; z) cannot exceed",
    "aggregate_kl_nats": "KL(q(z) || p(z)) = KL - I(x; z); unknown near the cap",
    "fisher_divergence": "F(p(z) || p(z|x)), mean over the data; of documents, over 64 of them",
    "active_units": "Var E[z|x] >= 0.01 (Burda et al. 2016)",
    "informative_units": "at least 1% of the unit's variance comes from x",
    "information_floor_nats": "guaranteed I(x; z) of the model; known for Gaussian decoders",
    "component_information_nats": "I(x; y) under q",
    "component_floor_nats": "I(y; z) under the prior is not below this, by the distances of its components",
    "live_components": "components most probable for a tenth of an equal share of the data at least; none if I(x; y) is 0",
    "majority_accuracy": "agreement with the labels, each component taking its most frequent one",
    "matched_accuracy": "agreement with the labels, each component taking another one (Hungarian)",
    "probe_accuracy": "of a logistic regression from posterior means to the labels, on rows that it was not fitted to",
}


@dataclass(frozen=True)
class Gallery:
    """Data beside what the model makes of them.

    Attributes:
        originals: shape (n, d), or a list of n documents.
        reconstructions: means of p(x|z) at the posterior means of the originals, the same shape; of documents, the most probable
            symbols one after the other.
        samples: the same at z drawn from the prior.
        image_shape: (height, width) where a row is an image.
    """

    originals: np.ndarray | list[str]
    reconstructions: np.ndarray | list[str]
    samples: np.ndarray | list[str]
    image_shape: tuple[int, int] | None


@dataclass(frozen=True)
class Report(Findings):
    """What `diagnose` found.

    Attributes:
        name: of the model.
        n_examples: rows that were looked at.
        verdict: "healthy", "partly collapsed" or "collapsed".
        advice: the verdict in a sentence, with its evidence and what to do.
        estimates: by the names of `MEANINGS`, those of the component for mixtures only, and accuracies where there are labels that
            are classes; None where nothing is known.
        units: a row for each latent unit; one for all symbols, where each of them has a z.
        history: the training, a row for each epoch.
        points: posterior means in two dimensions (their principal ones, if there are more), at most 2,000.
        labels: of the points, or None.
        gallery: for pictures.
    """

    meanings = MEANINGS

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

    def content(self) -> dict[str, Any]:
        """The verdict, and what is known of each unit."""
        return {
            "name": self.name,
            "n_examples": self.n_examples,
            "verdict": self.verdict,
            "advice": self.advice,
            "units": self.units.to_dict(orient="records"),
        }

    def to_html(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write one page that needs nothing else, no network either.

        Raises:
            InputError: if the file exists and `overwrite` is False, or cannot be written.
        """
        from uncollapse.diagnostics.page import render_page

        return write_text(path, render_page([self], title=f"Report on {self.name}"), overwrite)

    def __repr__(self) -> str:
        head = f"Report on {self.name}: {self.n_examples} examples, {len(self.units)} latent units"
        return f"{head}\n{self.advice}\n{summary_text(self.summary())}"


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
        labels: for colours in the picture of the latents, and, if they are classes, for accuracies, shape (n,).
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
    check_count("n_importance", n_importance)
    raw = as_fitted(model).check_rows(X)
    classes = _check_labels(labels, len(raw))
    if len(raw) < 2:
        raise InputError(f"a diagnosis expects at least 2 rows, got {len(raw)}.")
    if image_shape is not None and (len(image_shape) != 2 or min(image_shape) < 1 or math.prod(image_shape) != raw.shape[1]):
        raise InputError(f"image_shape expects a height and a width with {raw.shape[1]} pixels in all, got {image_shape}.")
    vae = model.model_
    # Files are often sorted: what looks at some rows only looks at random ones.
    shuffled = np.random.default_rng(0).permutation(len(raw))
    with spinner("inferring posteriors", verbose):
        rows = observe_rows(vae.family, raw)
        posteriors = infer(vae, rows)
    log_likelihood = importance_log_likelihood(vae, rows, n_importance, verbose)
    with spinner("estimating information and divergences", verbose):
        units = _unit_table(by_unit(vae, rows, posteriors))
        estimates = _estimate(vae, rows, posteriors, log_likelihood, shuffled) | _estimate_components(vae, posteriors, classes)
        estimates |= {f"{rule}_units": Estimate(float(units[rule].sum()), math.nan) for rule in ("active", "informative")}
        if classes is not None and classes.dtype.kind == "U":
            estimates["probe_accuracy"] = linear_probe(posteriors.means, posteriors.variances, classes, shuffled)
        verdict, advice = _judge(units, estimates, vae.family.fills_space)
        points, pictures = shuffled[:N_POINTS], shuffled[:N_PICTURES]
        return Report(
            name=name or type(model).__name__,
            n_examples=len(rows),
            verdict=verdict,
            advice=advice,
            estimates=estimates,
            units=units,
            history=model.history_,
            points=_in_two_dimensions(posteriors.means[points]),
            labels=None if classes is None else classes[points],
            gallery=_gallery(model, raw[pictures], posteriors.means[pictures], image_shape),
        )


def _check_labels(labels: Any, n_rows: int) -> np.ndarray | None:
    """Numbers as they are where they are a scale, and anything else as text."""
    if labels is None:
        return None
    try:
        series = pd.Series(list(labels)).infer_objects()
    except (TypeError, ValueError):
        raise InputError(f"labels expect one value for each of the {n_rows} rows, got {type(labels).__name__}.") from None
    if len(series) != n_rows or any(np.ndim(label) for label in series):
        raise InputError(f"labels expect one value for each of the {n_rows} rows, got {np.shape(labels) or len(series)}.")
    if series.dtype.kind in "iuf" and series.nunique() > MAX_CLASSES:
        return series.to_numpy(np.float64)
    return np.array([str(label) for label in series])


def _estimate(
    model: VAE, rows: np.ndarray, posteriors: Posteriors, log_likelihood: np.ndarray, shuffled: np.ndarray
) -> dict[str, Estimate | None]:
    kl = posteriors.kl.astype(np.float64)
    some, density = some_information_density(model, rows, posteriors, shuffled)
    information, cap = Estimate.mean_of(density), math.log(len(some))
    floor = model_information_floor(model)
    enumerated = isinstance(model.posterior, ComponentPosterior)
    return {
        "nll_nats": Estimate.mean_of(-log_likelihood.astype(np.float64)),
        "kl_nats": Estimate.mean_of(kl),
        "mutual_information_nats": information,
        "information_cap_nats": Estimate(cap, math.nan),
        # An enumerated KL is that of z and y together.
        "aggregate_kl_nats": None if enumerated or information.value > cap - CAP_MARGIN else Estimate.mean_of(kl[some] - density),
        "fisher_divergence": relative_fisher_divergence(model, rows) if model.prior.has_density else None,
        "information_floor_nats": None if floor is None else Estimate(floor, math.nan),
    }


def _estimate_components(model: VAE, posteriors: Posteriors, labels: np.ndarray | None) -> dict[str, Estimate | None]:
    components = posteriors.components
    if components is None:
        return {}
    assert isinstance(model.prior, GaussianMixture | CategoricalLayer)
    assert posteriors.kl_y is not None
    kl_y = posteriors.kl_y.astype(np.float64)
    told = component_information_density(kl_y, components)
    n_live = live_components(components).sum() if told.mean() >= DEAD_COMPONENT_NATS else 0
    found: dict[str, Estimate | None] = {
        "kl_y_nats": Estimate.mean_of(kl_y),
        "kl_z_nats": Estimate.mean_of(posteriors.kl - kl_y),
        "component_information_nats": Estimate.mean_of(told),
        "component_floor_nats": Estimate(model.prior.component_information_bound(), math.nan),
        "live_components": Estimate(float(n_live), math.nan),
    }
    if labels is not None and labels.dtype.kind == "U":
        clusters = components.argmax(1)
        found["majority_accuracy"] = Estimate.share(majority_accuracy(labels, clusters), len(labels))
        found["matched_accuracy"] = Estimate.share(matched_accuracy(labels, clusters), len(labels))
    return found


def _unit_table(posteriors: Posteriors) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "unit": np.arange(posteriors.means.shape[1]),
            "kl_nats": math.nan if posteriors.kl_units is None else posteriors.kl_units.mean(0).astype(float),
            "mean_variance": posteriors.means.var(0).astype(float),
            "explained_share": explained_share(posteriors.means, posteriors.variances).astype(float),
            "active": active_units(posteriors.means),
            "informative": informative_units(posteriors.means, posteriors.variances),
        }
    )


def _judge(units: pd.DataFrame, estimates: dict[str, Estimate | None], keeps_constant: bool) -> tuple[str, str]:
    """The verdict in a word, and in a sentence with its evidence and what to do."""
    dead = units.loc[~units["informative"], "unit"].tolist()
    told = estimates.get("component_information_nats")
    kl = estimates["kl_nats"]
    evidence = f"the KL is {kl.value if kl else math.nan:.3g} nats"
    if not dead and told and told.value < DEAD_COMPONENT_NATS:
        return (
            "partly collapsed",
            f"Partly collapsed: all {len(units)} latent units respond to the data, but their component does not (I(x; y) is "
            f"{told.value:.2g} nats); {evidence}. Remedy: a prior that keeps its components apart, a higher inverse_lipschitz, or "
            "another random_state.",
        )
    if not dead:
        return "healthy", f"Healthy: all {len(units)} latent units respond to the data; {evidence}."
    remedy = _remedy(estimates["mutual_information_nats"], estimates["information_floor_nats"], keeps_constant)
    if len(dead) == len(units):
        return "collapsed", f"Collapsed: none of the {len(units)} latent units responds to the data; {evidence}. {remedy}"
    named = ", ".join(map(str, dead[:8])) + (", ..." if len(dead) > 8 else "")
    return (
        "partly collapsed",
        f"Partly collapsed: {len(dead)} of {len(units)} latent units do not respond to the data ({named}); {evidence}. {remedy}",
    )


def _remedy(information: Estimate | None, floor: Estimate | None, keeps_constant: bool) -> str:
    if information and floor and information.value + 3 * information.standard_error < floor.value:
        return (
            f"The decoder guarantees {floor.value:.3g} nats on its own samples, so the posterior lags behind, or the data are "
            "unlike the model. Remedy: train longer."
        )
    if not keeps_constant:  # the family has a link, which would undo a constant
        return "Remedy: use fewer units, or a family that keeps an inverse Lipschitz constant."
    return "Remedy: set or raise inverse_lipschitz, or use fewer units."


def _in_two_dimensions(means: np.ndarray) -> np.ndarray:
    if means.shape[1] <= 2:
        return np.pad(means, ((0, 0), (0, 2 - means.shape[1])))
    with np.errstate(invalid="ignore"):  # wholly collapsed means have no shares of variance
        return np.asarray(PCA(2, svd_solver="full").fit_transform(means))


@torch.inference_mode()
def _gallery(fitted: Fitted, originals: np.ndarray, means: np.ndarray, image_shape: tuple[int, int] | None) -> Gallery:
    model = fitted.model_
    with seeded(0):
        z = model.prior().sample((len(originals),))
    if isinstance(model, SequenceVAE):
        return _gallery_of_documents(cast(FittedToSequences, fitted), originals, [means, z.cpu().numpy()])
    reconstructions, samples = (model.likelihood(code).mean.cpu().numpy() for code in (to_device(model, means), z))
    return Gallery(originals, reconstructions, samples, image_shape)


def _gallery_of_documents(fitted: FittedToSequences, rows: np.ndarray, codes: Sequence[np.ndarray]) -> Gallery:
    found = [fitted.vocabulary_.decode(rows), *map(fitted.inverse_transform, codes)]
    texts = [[each if isinstance(each, str) else " ".join(map(str, each)) for each in documents] for documents in found]
    originals, reconstructions, samples = texts
    return Gallery(originals, reconstructions, samples, image_shape=None)
