"""Certificates: the theorems of K23 as numbers, for a model and its data."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from uncollapse.diagnostics.collapse import Estimate
from uncollapse.diagnostics.fisher import PriorScores, posterior_scores, prior_draws, prior_scores
from uncollapse.diagnostics.information import model_information_floor
from uncollapse.diagnostics.smoothing import MAX_SMOOTHED_DIM, smoothed_kl_bound
from uncollapse.diagnostics.summary import Fitted, summary_json, summary_table, summary_text
from uncollapse.errors import InputError
from uncollapse.files import write_text
from uncollapse.inputs import check_count
from uncollapse.maps.jacobian import singular_extremes
from uncollapse.models import VAE, observe_rows
from uncollapse.progress import progress_bar, spinner

# A bound may exceed what it bounds by this share, which is what rounding in float64 leaves.
ROUNDING = 1e-9
# Examples whose posteriors are smoothed, for proposition 3.9.
MAX_SMOOTHED = 20

MEANINGS = {
    "inverse_lipschitz": "the decoder's total constant",
    "smallest_singular_value": "of the decoder's Jacobian, over the draws; never below the constant",
    "fisher_divergence": "F(p(z) || p(z|x)), mean over the data",
    "fisher_bound": "its lower bound (K23 theorems 3.4, A.7)",
    "bound_ratio": "bound / divergence, mean over the data; never above 1",
    "corollary_bound": "the same bound for every decoder with this constant (K23 corollary 3.6; l = t)",
    "mean_score_divergence": "the divergence with the mean over x inside the norm (K23 theorem 3.7)",
    "mean_score_bound": "its lower bound: variance + bias",
    "mean_score_variance": "of that bound, the part from the spread of E[T(x)|z] over z",
    "mean_score_bias": "of that bound, the part from the distance of its mean from the data's (unbiased, may pass below 0)",
    "reverse_divergence": "F(p(z|x) || p(z)), mean over the data (K23 remark 3.5)",
    "reverse_bound": "its lower bound",
    "posterior_kl_nats": "KL(p(z|x) || p(z)) of the true posteriors, by importance sampling",
    "kl_upper_nats": "its upper bound, half the reverse divergence (log-Sobolev, K23 appendix C)",
    "kl_lower_nats": "its lower bound where checked (K23 proposition 3.9; l <= 2, the first 20 examples)",
    "effective_sample_size": "of the importance weights, median over the data",
    "information_floor_nats": "guaranteed I(x; z) of the model; known for Gaussian decoders",
}


@dataclass(frozen=True)
class Certificate:
    """What the theorems guarantee for a model and data, beside what was measured.

    Attributes:
        name: of the model.
        estimates: by the names of `MEANINGS`, with standard errors; None where a theorem does not apply.
        examples: a row for each example: `fisher_divergence` with its `fisher_standard_error` over draws of z, `fisher_bound` at
            the same draws, `bound_ratio`, `corollary_bound`, `reverse_divergence` with its error and bound, `posterior_kl_nats`,
            `kl_upper_nats`, `kl_lower_nats` and `effective_sample_size`; NaN where a theorem does not apply.
        n_samples: draws of z from the prior, and from the posterior of each example.
        seed: of the draws from the prior.
    """

    name: str
    estimates: dict[str, Estimate | None]
    examples: pd.DataFrame
    n_samples: int
    seed: int

    @property
    def holds(self) -> bool:
        """Whether every bound holds on every example. They are theorems: if not, there is a bug, and we want to hear of it."""
        allowed = 1 + ROUNDING
        columns = [("fisher_bound", "fisher_divergence"), ("reverse_bound", "reverse_divergence")]
        return all(bool((self.examples[bound] <= allowed * self.examples[value]).all()) for bound, value in columns)

    def summary(self) -> pd.DataFrame:
        """A row for each quantity: ``value``, ``standard_error`` (NaN where it has none) and ``meaning``."""
        return summary_table(self.estimates, MEANINGS)

    def to_json(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write all numbers, those of the examples too.

        Raises:
            InputError: if the file exists and `overwrite` is False, or cannot be written.
        """
        content = {
            "name": self.name,
            "holds": self.holds,
            "n_samples": self.n_samples,
            "seed": self.seed,
            "estimates": {name: estimate and vars(estimate) for name, estimate in self.estimates.items()},
            "examples": self.examples.to_dict(orient="list"),
        }
        return write_text(path, summary_json(content), overwrite)

    def __repr__(self) -> str:
        verdict = "Every bound holds on every example." if self.holds else "A BOUND IS VIOLATED: this is a bug, please report it."
        head = f"Certificate of {self.name}: {len(self.examples)} examples, {self.n_samples} draws of z, seed {self.seed}"
        return f"{head}\n{verdict}\n{summary_text(self.summary())}"


def certify(
    model: Fitted, X: Any, *, name: str | None = None, n_samples: int = 64, seed: int = 0, verbose: bool = True
) -> Certificate:
    """What the decoder's inverse Lipschitz constant guarantees on data, example by example, and how much of it is used.

    Everything is computed in float64, on the CPU.

    Args:
        model: a fitted estimator of this package. An ordinary decoder promises nothing: its bounds are 0.
        X: data, shape (n, n_features) with n >= 2.
        name: what to call the model.
        n_samples: draws of z from the prior, shared by all examples, and from the posterior of each.
        seed: of the draws from the prior.
        verbose: show progress bars where there is a terminal.

    Raises:
        InputError: if the data do not suit the model, or the family's natural parameters do not fill R^t, for which the theorems
            are not stated.

    >>> import numpy as np, uncollapse as uc
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> certificate = uc.certify(uc.VAE(latent_dim=1, inverse_lipschitz=1.0, max_epochs=1, random_state=0).fit(X), X)
    >>> certificate.holds
    True
    """
    check_count("n_samples", n_samples, at_least=2)
    raw = model.check_rows(X)
    if len(raw) < 2:
        raise InputError(f"a certificate expects at least 2 rows, got n_samples={len(raw)}: give more data.")
    vae = model.model_
    if not vae.family.fills_space:
        raise InputError(
            f"certificates expect a family whose natural parameters fill R^t, got {vae.family.name!r}, whose link would undo any "
            "constant: use diagnose, which measures without theorems."
        )
    rows = observe_rows(vae.family, raw)
    precise = copy.deepcopy(vae).double().cpu().eval().requires_grad_(False)
    with spinner("scores under the prior", verbose):
        z = prior_draws(precise, n_samples, seed)
        scores = prior_scores(precise, rows, z)
    if not np.isfinite(scores.squared_scores).all():
        raise InputError(
            f"the scores of this model overflow float64: with family {vae.family.name!r} and constants "
            f"{getattr(vae.decoder, 'constants', ())} its means have no bound; use smaller constants."
        )
    examples = _examples(precise, rows, scores, n_samples, verbose)
    return Certificate(name or type(model).__name__, _estimates(precise, scores, examples, z), examples, n_samples, seed)


def _examples(model: VAE, rows: np.ndarray, scores: PriorScores, n_samples: int, verbose: bool) -> pd.DataFrame:
    divergence, bound = scores.squared_scores.mean(0), scores.squared_bounds.mean(0)
    posterior = posterior_scores(model, rows, n_samples, verbose)
    return pd.DataFrame(
        {
            "fisher_divergence": divergence,
            "fisher_standard_error": scores.squared_scores.std(0, ddof=1) / math.sqrt(n_samples),
            "fisher_bound": bound,
            "bound_ratio": np.divide(bound, divergence, out=np.zeros_like(bound), where=divergence > 0),
            "corollary_bound": corollary_bound(model, rows),
            "reverse_divergence": posterior.divergence,
            "reverse_standard_error": posterior.standard_error,
            "reverse_bound": posterior.bound,
            "posterior_kl_nats": posterior.kl_nats,
            "kl_upper_nats": posterior.divergence / 2,
            "kl_lower_nats": _smoothed_bounds(model, rows, verbose),
            "effective_sample_size": posterior.effective_sample_size,
        }
    )


def _estimates(model: VAE, scores: PriorScores, examples: pd.DataFrame, z: torch.Tensor) -> dict[str, Estimate | None]:
    floor = model_information_floor(model)
    spread = model.decoder.first_constant**2 * scores.mean_residual.var(0, ddof=1).sum()
    mean_bounds = model.decoder.first_constant**2 * np.square(scores.mean_residual).sum(1)
    return {
        "inverse_lipschitz": Estimate(model.decoder.constant, math.nan),
        "smallest_singular_value": Estimate(float(singular_extremes(model.decoder, z).smallest.min()), math.nan),
        "fisher_divergence": Estimate.mean_of(scores.squared_scores.mean(1)),
        "fisher_bound": Estimate.mean_of(scores.squared_bounds.mean(1)),
        "bound_ratio": _over_examples(examples["bound_ratio"]),
        "corollary_bound": _over_examples(examples["corollary_bound"]),
        "mean_score_divergence": Estimate.mean_of(np.square(scores.mean_score).sum(1)),
        "mean_score_bound": Estimate.mean_of(mean_bounds),
        "mean_score_variance": Estimate(float(spread), math.nan),
        "mean_score_bias": Estimate(float(mean_bounds.mean() - spread), math.nan),
        "reverse_divergence": _over_examples(examples["reverse_divergence"]),
        "reverse_bound": _over_examples(examples["reverse_bound"]),
        "posterior_kl_nats": _over_examples(examples["posterior_kl_nats"]),
        "kl_upper_nats": _over_examples(examples["kl_upper_nats"]),
        "kl_lower_nats": _over_examples(examples["kl_lower_nats"]),
        "effective_sample_size": Estimate(float(examples["effective_sample_size"].median()), math.nan),
        "information_floor_nats": None if floor is None else Estimate(floor, math.nan),
    }


def _over_examples(column: pd.Series[float]) -> Estimate | None:
    known = column.dropna().to_numpy()
    return Estimate.mean_of(known) if len(known) > 1 else None


def corollary_bound(model: VAE, rows: np.ndarray) -> np.ndarray:
    """K23 corollary 3.6 for each row: L^2 times the least of E |T(x) - E[T(x)|z]|^2 over all decoders with the constant L; l = t.

    The least value is a sum over coordinates: a decoder's j-th output climbs at least as fast as L z_j in the direction of z_j, so
    that no E[T_j|z] stays closer to T_j than that of c + L z_j for the best c (`Family.least_residual`).

    Returns:
        Shape (n,); NaN where l < t, for which the corollary is not stated.
    """
    statistic, constant = model.family.sufficient(torch.as_tensor(rows).double()), model.decoder.constant
    if statistic.shape[1] != model.prior().event_shape[0]:
        return np.full(len(rows), np.nan)
    return np.asarray(constant**2 * model.family.least_residual(statistic, constant).sum(1))


def _smoothed_bounds(model: VAE, rows: np.ndarray, verbose: bool) -> np.ndarray:
    bounds = np.full(len(rows), np.nan)
    if model.prior().event_shape[0] <= MAX_SMOOTHED_DIM:
        some = range(min(len(rows), MAX_SMOOTHED))
        with progress_bar("smoothed posteriors", len(some), verbose) as advance:
            for index in some:
                bounds[index] = smoothed_kl_bound(model, rows[index])
                advance("")
    return bounds
