"""Certificates: the theorems of K23 as numbers, for a model and its data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.polynomial.hermite_e import hermegauss

from uncollapse._utils.errors import DataError, ParameterError
from uncollapse._utils.progress import progress_bar, spinner
from uncollapse._utils.validation import check_count, check_seed
from uncollapse.adapters import adapt_model
from uncollapse.certificates.information_floor import model_information_floor
from uncollapse.certificates.smoothing import MAX_SMOOTHED_DIM, smoothed_kl_bound
from uncollapse.families import Family
from uncollapse.latent import StandardNormal
from uncollapse.maps.jacobian import singular_extremes
from uncollapse.maps.precision import in_float64
from uncollapse.measures.estimate import Estimate
from uncollapse.measures.fisher import (
    PosteriorScores,
    PriorScores,
    posterior_scores,
    prior_draws,
    prior_scores,
)
from uncollapse.measures.row_map import RowMap
from uncollapse.measures.summary import Findings, summary_text
from uncollapse.models import ComposedModel, LatentModel, RowModel, SequenceVAE

# A bound may exceed what it bounds by this share, which is what rounding in float64 leaves.
ROUNDING = 1e-9
# Importance weights that rest on fewer draws of the posterior than this say nothing.
MIN_EFFECTIVE_DRAWS = 10
# Examples whose posteriors are smoothed, for proposition 3.9.
MAX_SMOOTHED = 20
# Rows whose statistics are held at once for corollary 3.6.
ROWS_AT_ONCE = 1000

MEANINGS = {
    "total_inverse_lipschitz": "the decoder's total constant, L1 L2 of two maps",
    "first_inverse_lipschitz": "L1, of the decoder's first map",
    "smallest_singular_value": "of the decoder's Jacobian, over the draws; not below the total constant",
    "fisher_divergence": "F(p(z) || p(z|x))",
    "fisher_bound": "its lower bound (K23 theorems 3.4, A.7)",
    "bound_ratio": "bound / divergence; not above 1",
    "corollary_bound": "a lower bound for every Brenier map with this constant (K23 corollary 3.6; one map)",
    "mean_score_divergence": "the divergence with the mean over x inside the norm (K23 theorem 3.7)",
    "mean_score_bound": "its lower bound, L1^2 E|R|^2 for R = J'(mean T - E[T|z])",
    "mean_score_variance": "the part of this bound from the variance of R over z",
    "mean_score_bias": "the part from the mean of R; unbiased, so that it may pass below 0",
    "reverse_divergence": "F(p(z|x) || p(z)), estimated by importance weights (K23 remark 3.5)",
    "reverse_bound": "its lower bound, by the same weights",
    "posterior_kl_nats": "KL(p(z|x) || p(z)) of the true posteriors, by the same weights",
    "kl_upper_nats": "half the reverse divergence: an upper bound on that KL (log-Sobolev, K23 appendix C; standard normal prior)",
    "kl_lower_nats": "a lower bound on it, checked on a grid (K23 proposition 3.9; l <= 2, at most 20 of the examples)",
    "effective_sample_size": "of the importance weights, median over the examples",
    "information_floor_nats": "guaranteed I(x; z) of the model; known for Gaussian decoders",
}


@dataclass(frozen=True)
class Certificate(Findings):
    """What the theorems guarantee for a model and data, beside what was measured.

    Attributes:
        name: of the model.
        estimates: by the names of `MEANINGS`, with standard errors; None where a theorem does not
            apply or nothing can be said. The errors of the first divergence, its mean-score
            version, their bounds and their ratio are those of the draws of z, which all examples
            share; of the other quantities, those of the mean over the examples for which they are
            known.
        examples: a row for each example: `fisher_divergence` with its `fisher_standard_error` over
            draws of z, `fisher_bound` at the same draws, `bound_ratio`, `corollary_bound`,
            `reverse_divergence` with its error and bound, `posterior_kl_nats` with its error,
            `kl_upper_nats`, `kl_lower_nats` and `effective_sample_size`; NaN where a theorem does
            not apply or the weights rest on fewer than 10 draws.
        n_samples: draws of z from the prior.
        n_importance: draws from q(z|x) for each example.
        seed: of the draws from the prior.
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
        """Whether the divergences are above their bounds on every example. That is a theorem: if
        not, there is a bug."""
        allowed = 1 + ROUNDING
        pairs = [("fisher_bound", "fisher_divergence"), ("reverse_bound", "reverse_divergence")]
        return not any(
            bool((self.examples[bound] > allowed * self.examples[value]).any())
            for bound, value in pairs
        )

    def content(self) -> dict[str, Any]:
        """The settings, and all that is known of each example."""
        return {
            "name": self.name,
            "holds": self.holds,
            "n_samples": self.n_samples,
            "n_importance": self.n_importance,
            "seed": self.seed,
            "examples": self.examples.to_dict(orient="list"),
        }

    def __repr__(self) -> str:
        head = f"Certificate of {self.name}: {len(self.examples)} examples, {self.n_samples} draws of z, seed {self.seed}"
        return "\n".join([head, *self._remarks(), summary_text(self.summary())])

    @property
    def verdict(self) -> str:
        """Whether the bounds hold, in a sentence."""
        if not self.holds:
            return "A BOUND IS VIOLATED: this is a bug, please report it."
        if not self.examples["fisher_bound"].any():
            return "No inverse Lipschitz constant is promised for the decoder's first map: the bounds are 0."
        return "The divergences are above their bounds on every example."

    def _remarks(self) -> list[str]:
        few = int((self.examples["effective_sample_size"] < MIN_EFFECTIVE_DRAWS).sum())
        beyond = int(self.examples["reverse_divergence"].isna().sum()) - few
        remarks = [
            self.verdict,
            f"{few} of {len(self.examples)} posteriors were met by fewer than "
            f"{MIN_EFFECTIVE_DRAWS} effective draws and are left "
            f"out of what rests on importance weights: raise n_importance (now "
            f"{self.n_importance}).",
            f"{beyond} of {len(self.examples)} examples are left out of it as their scores "
            "overflow.",
        ]
        return [
            remark for remark, is_due in zip(remarks, (True, few, beyond), strict=True) if is_due
        ]


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
    """What the decoder's inverse Lipschitz constant guarantees on data, example by example, and how
    much of it is used.

    Everything is computed in float64, on the CPU.

    Args:
        model: a fitted estimator of this package. An ordinary decoder promises nothing: its bounds
            are 0.
        X: data, shape (n, n_features) with n >= 2.
        name: what to call the model.
        n_samples: draws of z from the prior, shared by all examples.
        n_importance: draws from q(z|x) for each example, to be weighted towards its true posterior;
            at least 10 of them must count.
        seed: of the draws from the prior.
        verbose: show progress bars where there is a terminal.

    Raises:
        InputError: if the data do not suit the model, the family's natural parameters do not fill
            R^t, the latents are discrete, or the data are sequences, for which the theorems are not
            stated, or scores overflow.

    >>> import numpy as np, uncollapse as uc
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> certificate = uc.certify(uc.VAE(latent_dim=1, inverse_lipschitz=1.0, max_epochs=1, random_state=0).fit(X), X)
    >>> certificate.holds
    True
    """
    check_count("n_samples", n_samples, at_least=2)
    check_count("n_importance", n_importance, at_least=MIN_EFFECTIVE_DRAWS)
    check_seed("seed", seed)
    subject = adapt_model(model)
    if not subject.is_ours:
        raise ParameterError(
            f"certificates expect a fitted estimator of this package, got {subject.name}: use "
            "diagnose, which measures any model "
            "without theorems."
        )
    raw = subject.read(X)
    if len(raw) < 2:
        raise DataError(f"a certificate expects at least 2 rows, got {len(raw)}: give more data.")
    assert isinstance(subject.model, ComposedModel)
    if (reason := _why_not(subject.model)) is not None:
        raise ParameterError(
            f"certificates expect {reason}: use diagnose, which measures without theorems."
        )
    rows = subject.model.observe(raw)
    return certificate(
        subject.model, rows, name or subject.name, n_samples, n_importance, seed, verbose
    )


def can_be_certified(model: LatentModel) -> bool:
    """Whether theorems are stated for the model, and promise something."""
    return isinstance(model, RowModel) and model.decoder.first_constant > 0 and _why_not(model) is None


def certificate(
    model: RowModel,
    rows: np.ndarray,
    name: str,
    n_samples: int = 64,
    n_importance: int = 256,
    seed: int = 0,
    verbose: bool = True,
    n_smoothed: int = MAX_SMOOTHED,
) -> Certificate:
    """What `certify` finds for a model and rows as it observes them; `n_smoothed` of their
    posteriors are smoothed, a second each.

    Raises:
        InputError: if scores overflow.
    """
    precise = in_float64(model).cpu().eval()
    work = RowMap(precise)
    with spinner("scores under the prior", verbose), np.errstate(over="ignore", invalid="ignore"):
        z = prior_draws(precise, n_samples, seed)
        scores = prior_scores(precise, rows, z)
    if not np.isfinite(scores.squared_scores).all():
        raise DataError(
            f"the scores of this model overflow float64, as the means of family "
            f"{model.family.name!r} have no bound: use smaller "
            "constants, or data on a smaller scale."
        )
    posterior = posterior_scores(precise, rows, n_importance, verbose, work)
    examples = _examples(precise, rows, scores, posterior, n_smoothed, verbose)
    return Certificate(
        name, _estimates(precise, scores, examples, z), examples, n_samples, n_importance, seed
    )


def _why_not(model: RowModel) -> str | None:
    """What a model lacks for the theorems to be stated for it, and what it has instead."""
    if not model.family.fills_space:
        return f"a family whose natural parameters fill R^t, got {model.family.name!r}, whose link would undo any constant"
    if not model.has_density:
        return "latents with a density, for which the theorems are stated, got a prior over discrete ones"
    if isinstance(model, SequenceVAE):
        return "rows whose columns are independent given z, for which the theorems are stated, got sequences"
    return None


def _examples(
    model: RowModel,
    rows: np.ndarray,
    scores: PriorScores,
    posterior: PosteriorScores,
    n_smoothed: int,
    verbose: bool,
) -> pd.DataFrame:
    divergence, bound = scores.squared_scores.mean(0), scores.squared_bounds.mean(0)
    trusted = np.isfinite(posterior.divergence) & (
        posterior.effective_sample_size >= MIN_EFFECTIVE_DRAWS
    )
    weighted = {
        "reverse_divergence": posterior.divergence,
        "reverse_standard_error": posterior.divergence_error,
        "reverse_bound": posterior.bound,
        "posterior_kl_nats": posterior.kl_nats,
        "posterior_kl_standard_error": posterior.kl_error,
        # The standard normal satisfies a log-Sobolev inequality of constant 1; of mixtures none so
        # simple is known.
        "kl_upper_nats": posterior.divergence / 2
        if _is_normal(model)
        else np.full(len(rows), np.nan),
    }
    return pd.DataFrame(
        {
            "fisher_divergence": divergence,
            "fisher_standard_error": scores.squared_scores.std(0, ddof=1)
            / math.sqrt(len(scores.squared_scores)),
            "fisher_bound": bound,
            "bound_ratio": np.divide(
                bound, divergence, out=np.zeros_like(bound), where=divergence > 0
            ),
            "corollary_bound": corollary_bound(model, rows),
            **{name: np.where(trusted, values, np.nan) for name, values in weighted.items()},
            "kl_lower_nats": _smoothed_bounds(model, rows, n_smoothed, verbose),
            "effective_sample_size": posterior.effective_sample_size,
        }
    )


def _estimates(
    model: RowModel, scores: PriorScores, examples: pd.DataFrame, z: torch.Tensor
) -> dict[str, Estimate | None]:
    floor = model_information_floor(model)
    divergences, bounds = scores.squared_scores.mean(1), scores.squared_bounds.mean(1)
    mean_bounds = np.square(scores.mean_residuals).sum(1)
    weighted = ["reverse_divergence", "reverse_bound", "posterior_kl_nats", "kl_upper_nats"]
    known = {
        "total_inverse_lipschitz": Estimate(model.decoder.constant, math.nan),
        "first_inverse_lipschitz": Estimate(model.decoder.first_constant, math.nan),
        "smallest_singular_value": Estimate(
            float(singular_extremes(model.decoder, z).smallest.min()), math.nan
        ),
        "fisher_divergence": Estimate.mean_of(divergences),
        "fisher_bound": Estimate.mean_of(bounds),
        "bound_ratio": _jackknifed(
            lambda draws: bounds[draws].sum() / max(divergences[draws].sum(), np.finfo(float).tiny),
            len(z),
        ),
        "mean_score_divergence": Estimate.mean_of(np.square(scores.mean_scores).sum(1)),
        "mean_score_bound": Estimate.mean_of(mean_bounds),
        "mean_score_variance": _jackknifed(
            lambda draws: scores.mean_residuals[draws].var(0, ddof=1).sum(), len(z)
        ),
        "mean_score_bias": _jackknifed(
            lambda draws: (
                mean_bounds[draws].mean() - scores.mean_residuals[draws].var(0, ddof=1).sum()
            ),
            len(z),
        ),
        **{
            name: _over_examples(examples[name])
            for name in ["corollary_bound", *weighted, "kl_lower_nats"]
        },
        "effective_sample_size": Estimate(
            float(examples["effective_sample_size"].median()), math.nan
        ),
        "information_floor_nats": None if floor is None else Estimate(floor, math.nan),
    }
    return {name: known[name] for name in MEANINGS}


def _jackknifed(statistic: Callable[[np.ndarray], float], n: int) -> Estimate:
    """A statistic of n draws, a function of their indices, with its jackknife error (NaN below 3
    draws)."""
    everything = np.arange(n)
    if n < 3:
        return Estimate(float(statistic(everything)), math.nan)
    left_out = np.array([statistic(np.delete(everything, index)) for index in everything])
    return Estimate(float(statistic(everything)), float(np.sqrt((n - 1) * left_out.var())))


def _over_examples(column: pd.Series[float]) -> Estimate | None:
    known = column.dropna().to_numpy()
    return Estimate.mean_of(known) if len(known) > 1 else None


def corollary_bound(model: RowModel, rows: np.ndarray) -> np.ndarray:
    """K23 corollary 3.6 for each row: L^2 times a number not above E |T(x) - E[T(x)|z]|^2 for any
    Brenier map of constant L.

    Returns:
        Shape (n,); NaN for a decoder of several maps, for which the corollary is not stated, and
        under a mixture prior.
    """
    if not (model.decoder.is_one_map and _is_normal(model)):
        return np.full(len(rows), np.nan)
    constant, pieces = model.decoder.constant, []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        statistic = model.family.sufficient(
            torch.as_tensor(rows[start : start + ROWS_AT_ONCE]).double()
        )
        pieces.append(
            constant**2 * least_residual(model.family, statistic, constant).sum(1).numpy()
        )
    return np.concatenate(pieces)


def least_residual(family: Family, statistic: torch.Tensor, constant: float) -> torch.Tensor:
    """What E (T_j - E[T_j|z])^2 does not fall below, for each coordinate of T, shape (n, t), and
    any Brenier map of this constant.

    A map's j-th output climbs at least at the slope L in the direction of z_j. With eta* the
    parameter at which T_j is the mean, and z0 the place where the output passes it, the output is
    at least L |z_j - z0| away from eta*, and the mean from T_j at least m(|z_j - z0|), m(r) = min
    |E[T | eta* ± L r] - T_j|. |z_j - z0| is stochastically least at z0 = 0 (Anderson's inequality),
    hence E m(|z_j|)^2, which for a Gaussian family is L^2 and attained. It is 0 where T_j lies on
    the border of the mean's domain, as for binary data, and for families with several parameters
    for each column.
    """
    if family.parameters_per_column > 1:
        return torch.zeros_like(statistic)
    natural = family.natural(statistic)
    inside = torch.isclose(family.expectation(natural), statistic, rtol=1e-6, atol=1e-9)
    nodes, weights = hermegauss(64)
    least = torch.zeros_like(statistic)
    for radius, weight in zip(abs(nodes), weights / weights.sum(), strict=True):
        gaps = [
            (family.expectation(natural + sign * constant * radius) - statistic).abs()
            for sign in (-1, 1)
        ]
        least += weight * torch.fmin(*gaps).square()
    return torch.where(inside, least, torch.zeros_like(least))


def _is_normal(model: RowModel) -> bool:
    return isinstance(model.prior, StandardNormal)


def _smoothed_bounds(model: RowModel, rows: np.ndarray, n_smoothed: int, verbose: bool) -> np.ndarray:
    bounds = np.full(len(rows), np.nan)
    if model.latent_dim <= MAX_SMOOTHED_DIM and _is_normal(model):
        some = np.random.default_rng(0).permutation(len(rows))[
            :n_smoothed
        ]  # files are often sorted
        with progress_bar("smoothed posteriors", len(some), verbose) as advance:
            for index in some:
                bounds[index] = smoothed_kl_bound(model, rows[index])
                advance("")
    return bounds
