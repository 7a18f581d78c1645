"""The rate KL(q(z|x) || p(z)) and its parts: mutual information I(x; z) and KL(q(z) || p(z))."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp

from uncollapse._utils.random import seeded
from uncollapse.latent import ComponentPosterior, is_diagonal_normal
from uncollapse.measures.estimate import Estimate
from uncollapse.measures.evaluation import evaluate
from uncollapse.models import LatentModel, to_device

# Largest number of rows that are compared pairwise, for Gaussian and for other posteriors. The
# cost is quadratic in it.
MAX_ROWS, MAX_PAIRED_ROWS = 5000, 1000
COMPARED_ROWS_AT_ONCE, PAIRS_AT_ONCE = 500, 8
# An estimate this close to its cap, in nats, or with this large a bias correction, is a lower bound
# only.
CAP_MARGIN, MAX_CORRECTION = 0.5, 0.5
# The bias falls by at least this factor when the number of rows doubles.
MIN_BIAS_RATIO = 1.3


def kl(model: Any, X: Any = None) -> Estimate:
    """Estimate the rate E KL(q(z|x) || p(z)) over all rows, in nats, with the component y where the
    prior has several."""
    with evaluate(model, X) as data:
        return data.sums.kl.estimate()


@dataclass(frozen=True)
class MutualInformation(Estimate):
    """I(x; z) under q, in nats, with its standard error.

    Attributes:
        density: log q(z|x) - log q(z) at one z of each row, without the bias, in nats.
        correction: the bias that was removed, in nats; 0 near the cap, where it is unknown.
        doubt: the difference between two ways of removing the bias; part of the standard error.
    """

    density: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)
    correction: float = 0.0
    doubt: float = 0.0

    @property
    def cap(self) -> float:
        """The largest information that these n rows can show, log n, in nats."""
        return math.log(len(self.density))

    @property
    def is_lower_bound(self) -> bool:
        """Whether the information may be much larger than its estimate."""
        return self.density.mean() > self.cap - CAP_MARGIN or self.correction > MAX_CORRECTION


def mutual_information(model: Any, X: Any = None) -> MutualInformation:
    """Estimate I(x; z) under q, in nats, by comparing 5,000 random rows (Hoffman & Johnson 2016).
    The estimate cannot exceed the logarithm of their number."""
    with evaluate(model, X) as data:
        some, posteriors = data.order[:MAX_ROWS], data.posteriors
        return information_of_rows(
            data.model, data.rows[some], posteriors.means[some], posteriors.variances[some]
        )


def aggregate_kl(
    model: Any, X: Any = None, information: MutualInformation | None = None
) -> Estimate | None:
    """Estimate KL(q(z) || p(z)) = KL(q(z|x) || p(z)) - I(x; z), in nats.

    It is unknown where the information is only a lower bound, or the KL is that of z and an
    enumerated component y together. Give the `information` if it has been estimated already.
    """
    with evaluate(model, X) as data:
        told = information or mutual_information(data)
        if told.is_lower_bound or isinstance(data.model.posterior, ComponentPosterior):
            return None
        kl = data.posteriors.kl[data.order[: len(told.density)]].astype(np.float64)
        rest = Estimate.mean_of(kl - told.density)
        return Estimate(rest.value, math.hypot(rest.standard_error, told.doubt))


def aggregate_gaussian_kl(model: Any, X: Any = None) -> Estimate | None:
    """Compute KL(N || p(z)) in nats of the Gaussian N with the moments of q(z), without its bias.

    For a Gaussian prior KL(q(z) || p(z)) = KL(q(z) || N) + KL(N || p(z)), so this is a lower bound,
    and the number of rows does not cap it.
    It is unknown where the prior is not Gaussian, or each symbol of a sequence has its own z.
    """
    with evaluate(model, X) as data:
        return data.sums.aggregate_gaussian_kl(data.model.prior())


def information_of_rows(
    model: LatentModel, rows: np.ndarray, means: np.ndarray, variances: np.ndarray
) -> MutualInformation:
    """Estimate I(x; z) from rows and the moments of their posteriors.

    q(z) is estimated by the mixture of the posteriors of n rows, which makes the information too
    low, by a bias that falls with n and leaves log n as a cap. Halves and quarters of the rows show
    how fast it falls, and it is removed. The rows are in random order, as the model observes them.
    """
    with torch.inference_mode():
        q = model.posterior(to_device(model, rows[:1]))
    if is_diagonal_normal(q):
        means, variances = means[:MAX_ROWS], variances[:MAX_ROWS]
        noise = np.random.default_rng(0).standard_normal(means.shape)
        return remove_bias(information_densities(means, variances, noise))
    return remove_bias(_pairwise_densities(model, rows[:MAX_PAIRED_ROWS]))


def remove_bias(densities: np.ndarray) -> MutualInformation:
    """Extrapolate densities by all rows, halves and quarters, shape (3, n), to n -> infinity."""
    n, (whole, halves, quarters) = densities.shape[1], densities.mean(1)
    density, correction, doubt = densities[0], 0.0, 0.0
    if n >= 8 and whole <= math.log(n) - CAP_MARGIN and halves < whole:
        # A bias that goes with n^-g falls by 2^g from halves to all: by 2 for small informations,
        # by less for large ones.
        ratio = float(np.clip((halves - quarters) / (whole - halves), MIN_BIAS_RATIO, 2.0))
        first_order, correction = whole - halves, (whole - halves) / (ratio - 1)
        density = densities[0] + (densities[0] - densities[1]) / (ratio - 1)
        doubt = correction - first_order
    plain = Estimate.mean_of(density)
    error = math.hypot(plain.standard_error, doubt)
    return MutualInformation(min(plain.value, math.log(n)), error, density, correction, doubt)


def _pairwise_densities(model: LatentModel, rows: np.ndarray) -> np.ndarray:
    """Compute `information_densities` for posteriors of any kind, by n^2 evaluations of their
    density."""
    with torch.inference_mode(), seeded(0):
        q = model.posterior(to_device(model, rows))
        pieces = torch.split(q.sample(), PAIRS_AT_ONCE)
        log_q = torch.cat([q.log_prob(z.unsqueeze(1)) for z in pieces]).cpu().double().numpy()
    return np.asarray(log_q.diagonal() - _log_means(log_q, 0))


def information_densities(
    means: np.ndarray, variances: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """Compute log q(z|x) - log q(z) at one z for each x, in nats, where the rows estimate q(z).

    Standard normal noise, shape (n, latent_dim), decides the z of diagonal Gaussian posteriors in
    random order. The densities have shape (3, n), with q(z) as the mixture of the posteriors of all
    rows, of the half that holds x, and of the quarter that holds it.
    """
    means, variances = means.astype(np.float64), variances.astype(np.float64)
    z = means + np.sqrt(variances) * noise
    precision = 1 / variances
    # log q(z_i|x_j) = c_j - |z_i - m_j|^2 / 2 in units of the precision, expanded into matrix
    # products.
    offset = -0.5 * ((means**2 * precision).sum(1) + np.log(2 * np.pi * variances).sum(1))
    densities = np.empty((3, len(z)))
    for start in range(0, len(z), COMPARED_ROWS_AT_ONCE):
        rows = slice(start, start + COMPARED_ROWS_AT_ONCE)
        log_q = offset - 0.5 * z[rows] ** 2 @ precision.T + z[rows] @ (means * precision).T
        own = log_q[np.arange(len(log_q)), np.arange(start, start + len(log_q))]
        densities[:, rows] = own - _log_means(log_q, start)
    return densities


def _log_means(log_q: np.ndarray, start: int) -> np.ndarray:
    """Compute log q(z) at the z of rows `start` and following, by all rows, by the half and by the
    quarter that each is in."""
    places = np.arange(log_q.shape[1])
    found = []
    for n_parts in (1, 2, 4):
        part = places * n_parts // len(places)
        is_own = part[start : start + len(log_q), None] == part
        found.append(logsumexp(np.where(is_own, log_q, -np.inf), axis=1) - np.log(is_own.sum(1)))
    return np.stack(found)
