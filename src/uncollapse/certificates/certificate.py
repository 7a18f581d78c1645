"""Certificates: the theorems of K23 as numbers, for a model and its data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

import numpy as np
import pandas as pd
import torch
from numpy.polynomial.hermite_e import hermegauss

from uncollapse._utils.errors import DataError, ParameterError
from uncollapse._utils.progress import progress_bar, spinner
from uncollapse._utils.random import random_indices
from uncollapse._utils.validation import check_count, check_seed
from uncollapse.adapters import adapt_model
from uncollapse.certificates.information_floor import model_information_floor
from uncollapse.certificates.smoothing import MAX_SMOOTHED_DIM, smoothed_kl_bound
from uncollapse.families import Family
from uncollapse.latent import StandardNormal
from uncollapse.maps.jacobian import in_float64, singular_extremes
from uncollapse.measures.estimate import Estimate, Findings, summary_text
from uncollapse.measures.fisher import (
    PosteriorScores,
    PriorScores,
    posterior_scores,
    prior_draws,
    prior_scores,
)
from uncollapse.models import LatentModel, RowModel

# The share by which rounding in float64 can lift a bound above the quantity that it bounds.
ROUNDING = 1e-9
# Importance weights with a smaller effective sample size are not used.
MIN_EFFECTIVE_DRAWS = 10
# Rows in the batches of corollary 3.6.
SCORED_ROWS_AT_ONCE = 1000
# Examples for the grid of proposition 3.9, which takes a second for each.
N_SMOOTHED = 20

MEANINGS = {
    "total_inverse_lipschitz": "total inverse Lipschitz constant of the decoder (L1 L2)",
    "first_inverse_lipschitz": "inverse Lipschitz constant of the decoder's first map (L1)",
    "smallest_singular_value": "smallest singular value of the decoder's Jacobian over the draws; "
    "at least the total constant",
    "fisher_divergence": "relative Fisher divergence F(p(z) || p(z|x))",
    "fisher_bound": "lower bound of F(p(z) || p(z|x)) (K23 theorems 3.4, A.7)",
    "bound_ratio": "lower bound / divergence; at most 1",
    "corollary_bound": "lower bound for every Brenier map of this constant (K23 corollary 3.6)",
    "mean_score_divergence": "F with the mean over x inside the norm (K23 theorem 3.7)",
    "mean_score_bound": "lower bound of it, L1^2 E|R|^2 for R = J'(mean T - E[T|z])",
    "mean_score_variance": "variance part of this bound",
    "mean_score_bias": "bias part of this bound; unbiased, so it can be negative",
    "reverse_divergence": "F(p(z|x) || p(z)) by importance weights (K23 remark 3.5)",
    "reverse_bound": "lower bound of F(p(z|x) || p(z)), by the same weights",
    "posterior_kl_nats": "KL(p(z|x) || p(z)) of the true posteriors, by the same weights",
    "kl_upper_nats": "upper bound of this KL, half the reverse divergence (log-Sobolev inequality, "
    "K23 appendix C; standard normal prior)",
    "kl_lower_nats": "lower bound of this KL on a grid (K23 proposition 3.9; l <= 2)",
    "effective_sample_size": "effective sample size of the weights, median over the examples",
    "information_floor_nats": "guaranteed I(x; z) of the model; known for Gaussian decoders",
}


@dataclass(frozen=True)
class Certificate(Findings):
    """Theorems about a model and data, beside the quantities that they bound.

    Attributes:
        estimates: by the names of `MEANINGS`, with standard errors; None where a theorem does not
            apply or the quantity is unknown. The errors of the first divergence, its mean-score
            version, their bounds and their ratio are those of the draws of z, which all examples
            share; the others are errors of the mean over examples.
        examples: a row for each example: `fisher_divergence` with its `fisher_standard_error` over
            draws of z, `fisher_bound` at the same draws, `bound_ratio`, `corollary_bound`,
            `reverse_divergence` with its error and bound, `posterior_kl_nats` with its error,
            `kl_upper_nats`, `kl_lower_nats` and `effective_sample_size`; NaN where a theorem does
            not apply or the effective sample size is below 10.
        name, n_samples, n_importance, seed: the arguments of `certify`.
    """

    meanings = MEANINGS

    name: str
    estimates: dict[str, Estimate | None]
    examples: pd.DataFrame
    n_samples: int
    n_importance: int
    seed: int

    @property
    def holds(self) -> bool:
        """Whether every divergence is above its bound. This is a theorem: if not, there is a
        bug."""
        found = self.examples
        fisher = found["fisher_bound"] > (1 + ROUNDING) * found["fisher_divergence"]
        reverse = found["reverse_bound"] > (1 + ROUNDING) * found["reverse_divergence"]
        return not bool((fisher | reverse).any())

    def content(self) -> dict[str, Any]:
        """Return the settings and the table of examples, for JSON."""
        settings = {key: getattr(self, key) for key in ("n_samples", "n_importance", "seed")}
        examples = self.examples.to_dict(orient="list")
        return {"name": self.name, "holds": self.holds, **settings, "examples": examples}

    def __repr__(self) -> str:
        head = (
            f"Certificate of {self.name}: {len(self.examples)} examples, "
            f"{self.n_samples} draws of z, seed {self.seed}"
        )
        return "\n".join([head, self.verdict, *self._remarks(), summary_text(self.summary())])

    @property
    def verdict(self) -> str:
        """A sentence that says whether the bounds hold."""
        if not self.holds:
            return "A BOUND IS VIOLATED: this is a bug, please report it."
        if not self.examples["fisher_bound"].any():
            return (
                "No inverse Lipschitz constant is promised for the decoder's first map: the bounds "
                "are 0."
            )
        return "The divergences are above their bounds on every example."

    def _remarks(self) -> list[str]:
        n, remarks = len(self.examples), []
        few = int((self.examples["effective_sample_size"] < MIN_EFFECTIVE_DRAWS).sum())
        overflowing = int(self.examples["reverse_divergence"].isna().sum()) - few
        if few:
            remarks.append(
                f"{few} of {n} examples are left out of estimates by importance weights, as their "
                f"effective sample size is below {MIN_EFFECTIVE_DRAWS}: raise n_importance (now "
                f"{self.n_importance})."
            )
        if overflowing:
            remarks.append(
                f"{overflowing} of {n} examples are left out of estimates by importance weights, "
                "as their scores overflow."
            )
        return remarks


def certify(
    model: Any,
    X: Any,
    *,
    name: str | None = None,
    n_samples: int = 64,
    n_importance: int = 256,
    seed: int = 0,
    verbose: bool = True,
) -> Certificate:
    """Compute what the decoder's inverse Lipschitz constant guarantees on data, example by example,
    beside the quantities that it bounds.

    All is computed in float64, on the CPU.

    Args:
        model: a fitted estimator of this package. An ordinary decoder promises nothing: its bounds
            are 0.
        X: data, shape (n, n_features) with n >= 2.
        name: of the model, in the certificate.
        n_samples: draws of z from the prior, shared by all examples.
        n_importance: draws from q(z|x) for each example, at least 10, which are weighted towards
            its true posterior.
        seed: of the draws from the prior.
        verbose: show progress bars in a terminal.

    Raises:
        InputError: if the data do not suit the model, scores overflow, or the theorems are not
            stated for the model: families with a link, discrete latents, sequences.

    >>> import numpy as np, uncollapse as uc
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> vae = uc.VAE(latent_dim=1, hidden=(8,), max_epochs=1, random_state=0).fit(X)
    >>> uc.certify(vae, X[:4]).holds
    True
    """
    check_count("n_samples", n_samples, at_least=2)
    check_count("n_importance", n_importance, at_least=MIN_EFFECTIVE_DRAWS)
    check_seed("seed", seed)
    adapted = adapt_model(model)
    if not adapted.is_ours:
        raise ParameterError(
            f"certificates expect a fitted estimator of this package, got {adapted.name}. Use "
            "diagnose, which measures any model without theorems."
        )
    raw = adapted.read(X)
    if len(raw) < 2:
        raise DataError(f"a certificate expects at least 2 rows, got {len(raw)}: give more data.")
    if missing := _missing(adapted.model):
        raise ParameterError(
            f"certificates expect {missing}. Use diagnose, which measures without theorems."
        )
    return certify_rows(
        cast(RowModel, adapted.model),
        adapted.model.observe(raw),
        name or adapted.name,
        n_samples=n_samples,
        n_importance=n_importance,
        seed=seed,
        n_smoothed=N_SMOOTHED,
        verbose=verbose,
    )


def can_be_certified(model: LatentModel) -> TypeGuard[RowModel]:
    """Return whether theorems are stated for the model and promise something."""
    if not isinstance(model, RowModel) or _missing(model):
        return False
    return model.decoder.first_constant > 0


def _missing(model: LatentModel) -> str:
    """Name what a model lacks for the theorems to be stated for it; empty if nothing."""
    if not isinstance(model, RowModel):
        return "rows whose columns are independent given z, got sequences"
    if not model.family.fills_space:
        return (
            f"a family whose natural parameters fill R^t, got {model.family.name!r}, whose link "
            "would undo any constant"
        )
    return "" if model.has_density else "latents with a density, got a prior over discrete ones"


def certify_rows(
    model: RowModel,
    rows: np.ndarray,
    name: str,
    *,
    n_samples: int = 64,
    n_importance: int = 256,
    seed: int = 0,
    n_smoothed: int = 0,
    verbose: bool = True,
) -> Certificate:
    """Compute the certificate of `certify` for rows as the model observes them.

    `kl_lower_nats` is computed for `n_smoothed` random rows.

    Raises:
        DataError: if scores overflow.
    """
    precise = in_float64(model).cpu().eval()
    with spinner("scores under the prior", verbose), np.errstate(over="ignore", invalid="ignore"):
        z = prior_draws(precise, n_samples, seed)
        scores = prior_scores(precise, rows, z)
    if not np.isfinite(scores.squared_scores).all():
        raise DataError(
            "the scores of this model overflow float64, as the means of family "
            f"{model.family.name!r} have no bound: use smaller constants, or data on a smaller "
            "scale."
        )
    posterior = posterior_scores(precise, rows, n_importance, verbose)
    lower = _smoothed_bounds(precise, rows, n_smoothed, verbose)
    examples = _examples(precise, rows, scores, posterior, lower)
    estimates = _estimates(precise, scores, examples, z)
    return Certificate(name, estimates, examples, n_samples, n_importance, seed)


def _examples(
    model: RowModel,
    rows: np.ndarray,
    scores: PriorScores,
    posterior: PosteriorScores,
    lower: np.ndarray,
) -> pd.DataFrame:
    divergence, bound = scores.squared_scores.mean(0), scores.squared_bounds.mean(0)
    error = scores.squared_scores.std(0, ddof=1) / math.sqrt(len(scores.squared_scores))
    ratio = np.divide(bound, divergence, out=np.zeros_like(bound), where=divergence > 0)
    is_trusted = np.isfinite(posterior.divergence) & (
        posterior.effective_sample_size >= MIN_EFFECTIVE_DRAWS
    )
    # The standard normal satisfies a log-Sobolev inequality of constant 1. No constant is known for
    # mixtures.
    upper = posterior.divergence / 2 if _is_normal(model) else np.full(len(rows), np.nan)
    weighted = {
        "reverse_divergence": posterior.divergence,
        "reverse_standard_error": posterior.divergence_error,
        "reverse_bound": posterior.bound,
        "posterior_kl_nats": posterior.kl_nats,
        "posterior_kl_standard_error": posterior.kl_error,
        "kl_upper_nats": upper,
    }
    return pd.DataFrame(
        {
            "fisher_divergence": divergence,
            "fisher_standard_error": error,
            "fisher_bound": bound,
            "bound_ratio": ratio,
            "corollary_bound": corollary_bound(model, rows),
            **{name: np.where(is_trusted, values, np.nan) for name, values in weighted.items()},
            "kl_lower_nats": lower,
            "effective_sample_size": posterior.effective_sample_size,
        }
    )


def _estimates(
    model: RowModel, scores: PriorScores, examples: pd.DataFrame, z: torch.Tensor
) -> dict[str, Estimate | None]:
    divergences, bounds = scores.squared_scores.mean(1), scores.squared_bounds.mean(1)
    residuals = scores.mean_residuals
    mean_bounds = np.square(residuals).sum(1)

    def ratio(draws: np.ndarray) -> float:
        return float(bounds[draws].sum() / max(divergences[draws].sum(), np.finfo(float).tiny))

    def variance(draws: np.ndarray) -> float:
        return float(residuals[draws].var(0, ddof=1).sum())

    def bias(draws: np.ndarray) -> float:
        return float(mean_bounds[draws].mean() - variance(draws))

    smallest = singular_extremes(model.decoder, z).smallest.min()
    known = {
        "total_inverse_lipschitz": Estimate(model.decoder.constant),
        "first_inverse_lipschitz": Estimate(model.decoder.first_constant),
        "smallest_singular_value": Estimate(float(smallest)),
        "fisher_divergence": Estimate.mean_of(divergences),
        "fisher_bound": Estimate.mean_of(bounds),
        "bound_ratio": _jackknife(ratio, len(z)),
        "mean_score_divergence": Estimate.mean_of(np.square(scores.mean_scores).sum(1)),
        "mean_score_bound": Estimate.mean_of(mean_bounds),
        "mean_score_variance": _jackknife(variance, len(z)),
        "mean_score_bias": _jackknife(bias, len(z)),
        "effective_sample_size": Estimate(float(examples["effective_sample_size"].median())),
        "information_floor_nats": model_information_floor(model),
    }
    # The others are means over the examples.
    return {
        name: known[name] if name in known else _mean_of_known(examples[name]) for name in MEANINGS
    }


def _jackknife(statistic: Callable[[np.ndarray], float], n: int) -> Estimate:
    """Estimate a statistic of n draws, a function of their indices, with its jackknife error (NaN
    below 3 draws)."""
    indices = np.arange(n)
    value = statistic(indices)
    if n < 3:
        return Estimate(value)
    left_out = np.array([statistic(np.delete(indices, index)) for index in indices])
    return Estimate(value, float(np.sqrt((n - 1) * left_out.var())))


def _mean_of_known(column: pd.Series[float]) -> Estimate | None:
    known = column.dropna().to_numpy()
    return Estimate.mean_of(known) if len(known) > 1 else None


def corollary_bound(model: RowModel, rows: np.ndarray) -> np.ndarray:
    """Compute the bound of K23 corollary 3.6 for each row: L^2 times a lower bound of E |T(x) -
    E[T(x)|z]|^2 that holds for any Brenier map of constant L.

    It is NaN for a decoder of several maps and under a mixture prior, for which the corollary is
    not stated.
    """
    if not (model.decoder.is_one_map and _is_normal(model)):
        return np.full(len(rows), np.nan)
    constant, bounds = model.decoder.constant, np.empty(len(rows))
    for start in range(0, len(rows), SCORED_ROWS_AT_ONCE):
        some = slice(start, start + SCORED_ROWS_AT_ONCE)
        statistic = model.family.sufficient(torch.as_tensor(rows[some]).double())
        residual = least_residual(model.family, statistic, constant)
        bounds[some] = constant**2 * residual.sum(1).numpy()
    return bounds


def least_residual(family: Family, statistic: torch.Tensor, constant: float) -> torch.Tensor:
    """Compute a lower bound of E (T_j - E[T_j|z])^2 for each coordinate of T, shape (n, t), over
    all Brenier maps of this constant.

    The j-th output of such a map rises with z_j at least at the slope L. Let eta* be the parameter
    with mean T_j, and z0 the place where the output passes it. Then the output is at least L |z_j -
    z0| away from eta*, and the mean at least m(|z_j - z0|) away from T_j, for m(r) = min |E[T |
    eta* ± L r] - T_j|. |z_j - z0| is stochastically smallest at z0 = 0 (Anderson's inequality),
    hence the bound E m(|z_j|)^2; a Gaussian family attains it, with L^2. It is 0 where T_j lies on
    the border of the mean's domain, as for binary data, and for families with several parameters
    per column.
    """
    if family.parameters_per_column > 1:
        return torch.zeros_like(statistic)
    natural = family.natural(statistic)
    is_inside = torch.isclose(family.expectation(natural), statistic, rtol=1e-6, atol=1e-9)
    nodes, weights = hermegauss(64)
    least = torch.zeros_like(statistic)
    for radius, weight in zip(abs(nodes), weights / weights.sum(), strict=True):
        below, above = (
            (family.expectation(natural + sign * constant * radius) - statistic).abs()
            for sign in (-1, 1)
        )
        least += weight * torch.fmin(below, above).square()
    return torch.where(is_inside, least, torch.zeros_like(least))


def _is_normal(model: RowModel) -> bool:
    return isinstance(model.prior, StandardNormal)


def _smoothed_bounds(
    model: RowModel, rows: np.ndarray, n_smoothed: int, verbose: bool
) -> np.ndarray:
    """Compute the bound of proposition 3.9 for some random rows, NaN for all others."""
    bounds = np.full(len(rows), np.nan)
    if model.latent_dim <= MAX_SMOOTHED_DIM and _is_normal(model):
        some = random_indices(len(rows), n_smoothed)
        with progress_bar("smoothed posteriors", len(some), verbose) as advance:
            for index in some:
                bounds[index] = smoothed_kl_bound(model, rows[index])
                advance("")
    return bounds
