"""Running sums over rows, whose memory does not grow with the number of rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.distributions import Distribution, MultivariateNormal

from uncollapse.adapters import moments
from uncollapse.latent import is_diagonal_normal
from uncollapse.measures.estimate import Estimate
from uncollapse.measures.posteriors import Posteriors
from uncollapse.models import LatentModel

# Burda et al. 2016: a unit is active if the variance over x of its posterior mean is at least this.
ACTIVE_VARIANCE = 0.01
# Scale-free rule: a unit is informative if x explains at least this share of its variance.
ACTIVE_SHARE = 0.01
# Thresholds of the (epsilon, delta) curves, in nats.
EPSILONS = np.geomspace(1e-3, 30.0, 61)


class UnitSums:
    """Sums over rows of the KL and the moments of each latent unit.

    Where a sequence has a z for every symbol, a unit has one entry for each symbol: its moments are
    taken over the symbols of all rows, without the part of the mean that the place alone explains,
    and its KL is the sum over the symbols of a row.

    Args:
        model: whose latent units they are.

    Attributes:
        n: rows that were added.
        kl: running mean of KL(q(z|x) || p(z)), in nats.
    """

    def __init__(self, model: LatentModel) -> None:
        self.n, self.kl = 0, RunningMean()
        self._n_places = model.n_places
        self._n_units = model.latent_dim // model.n_places
        shape = (self._n_places, self._n_units)
        self._counts = np.zeros((self._n_places, 1))
        self._means, self._squares, self._variances = np.zeros((3, *shape))
        self._unit_kl, self._matched_kl = np.zeros((2, self._n_units))
        self._above = np.zeros((len(EPSILONS), self._n_units))
        # The KL is a sum over units only where posteriors and prior factorize.
        self._is_exact = True
        with torch.no_grad():
            mean, variance = moments(model.prior())
        self._prior = mean.double().cpu().numpy(), variance.double().cpu().numpy()
        self._covariance = RunningCovariance(model.latent_dim) if self._n_places == 1 else None

    def add(self, posteriors: Posteriors, rows: np.ndarray) -> None:
        """Add the posteriors of these rows."""
        n = len(rows)
        self.n += n
        self.kl.add(posteriors.kl)
        self._is_exact &= posteriors.kl_units is not None
        matched = self._sum_places(self._gaussian_kl(posteriors))
        self._matched_kl += matched.sum(0)
        exact = posteriors.kl_units
        kl = matched if exact is None else self._sum_places(exact)
        self._unit_kl += kl.sum(0)
        # Count the rows between each pair of thresholds, then sum the counts from the top.
        passed = np.searchsorted(EPSILONS, kl, side="right")
        for unit in range(self._n_units):
            counts = np.bincount(passed[:, unit], minlength=len(EPSILONS) + 1)
            self._above[:, unit] += counts[::-1].cumsum()[::-1][1:]
        is_symbol = np.ones((n, 1, 1), bool)
        if self._n_places > 1:
            is_symbol = (rows >= 0)[:, : self._n_places, None]
        self._add_moments(posteriors, is_symbol)
        if self._covariance is not None:
            self._covariance.add(posteriors.means, posteriors.variances)

    def _add_moments(self, posteriors: Posteriors, is_symbol: np.ndarray) -> None:
        shape = (len(posteriors.kl), self._n_places, -1)
        means = posteriors.means.reshape(shape).astype(np.float64)
        variances = posteriors.variances.reshape(shape).astype(np.float64)
        counts = is_symbol.sum(0)
        own = (means * is_symbol).sum(0) / np.maximum(counts, 1)
        self._means, gap, weight = _merge_means(self._means, self._counts, own, counts)
        self._squares += (np.square(means - own) * is_symbol).sum(0) + np.square(gap) * weight
        self._variances += (variances * is_symbol).sum(0)
        self._counts += counts

    def _sum_places(self, kl: np.ndarray) -> np.ndarray:
        """Sum over the symbols of each row, shape (n, n_units)."""
        return np.asarray(kl.reshape(len(kl), self._n_places, -1).sum(1), np.float64)

    def _gaussian_kl(self, posteriors: Posteriors) -> np.ndarray:
        """KL between the Gaussians with the moments of q(z_d|x) and p(z_d)."""
        mean, variance = self._prior
        ratio = np.maximum(posteriors.variances.astype(np.float64), np.finfo(float).tiny) / variance
        return np.asarray(
            0.5 * (np.square(posteriors.means - mean) / variance + ratio - 1 - np.log(ratio))
        )

    def table(self) -> pd.DataFrame:
        """Return one row for each unit.

        Columns: ``unit``; ``kl_nats``, NaN where the KL is not a sum over units;
        ``matched_kl_nats``, between the Gaussians with the moments of q(z_d|x) and p(z_d), always
        defined; ``mean`` and ``deviation`` of q(z_d); ``mean_variance``, Var E[z_d|x];
        ``explained_share``, its share of the variance of q(z_d); ``active`` and ``informative``.
        """
        total = self._counts.sum()
        between, within = self._squares.sum(0) / total, self._variances.sum(0) / total
        with np.errstate(invalid="ignore"):
            share = between / (between + within)
        return pd.DataFrame(
            {
                "unit": np.arange(self._n_units),
                "kl_nats": self._unit_kl / self.n if self._is_exact else math.nan,
                "matched_kl_nats": self._matched_kl / self.n,
                "mean": (self._means * self._counts).sum(0) / total,
                "deviation": np.sqrt(between + within),
                "mean_variance": between,
                "explained_share": share,
                "active": between >= ACTIVE_VARIANCE,
                "informative": share >= ACTIVE_SHARE,
            }
        )

    def collapse_curves(self) -> pd.DataFrame:
        """Return P(KL(q(z_d|x) || p(z_d)) >= epsilon) by epsilon (index) and unit (column)."""
        return pd.DataFrame(self._above / self.n, index=pd.Index(EPSILONS, name="epsilon"))

    def aggregate_gaussian_kl(self, prior: Distribution) -> Estimate | None:
        """Return KL(N || p(z)) in nats of the Gaussian N with the moments of q(z); None where the
        prior is not a normal distribution, or each symbol has its own z."""
        return None if self._covariance is None else self._covariance.kl_to_normal(prior)


def _merge_means(mean: Any, n: Any, own: Any, n_own: Any) -> tuple[Any, Any, Any]:
    """Return the mean of two samples, the gap between their means, and the weight of its square in
    the sum of squares (Chan et al. 1979)."""
    gap, total = own - mean, np.maximum(n + n_own, 1)
    return mean + gap * n_own / total, gap, n * n_own / total


class RunningMean:
    """The mean of values that come in batches, and its standard error."""

    def __init__(self) -> None:
        self._n = 0
        self._mean = self._squares = 0.0

    def add(self, values: np.ndarray) -> None:
        """Add a batch of values."""
        values, n = values.astype(np.float64), len(values)
        own = values.mean()
        self._mean, gap, weight = _merge_means(self._mean, self._n, own, n)
        self._squares += float(np.square(values - own).sum() + gap**2 * weight)
        self._n += n

    def estimate(self) -> Estimate:
        """Return the mean with its standard error."""
        error = math.sqrt(self._squares / (self._n - 1) / self._n) if self._n > 1 else math.nan
        return Estimate(float(self._mean), error)


class RunningCovariance:
    """The mean and the covariance of the aggregate posterior q(z)."""

    def __init__(self, latent_dim: int) -> None:
        self._n = 0
        self._mean, self._variances = np.zeros((2, latent_dim))
        self._products = np.zeros((latent_dim, latent_dim))

    def add(self, means: np.ndarray, variances: np.ndarray) -> None:
        """Add posteriors with these means and variances."""
        means, n = means.astype(np.float64), len(means)
        own = means.mean(0)
        centered = means - own
        self._mean, gap, weight = _merge_means(self._mean, self._n, own, n)
        self._products += centered.T @ centered + np.outer(gap, gap) * weight
        self._variances += variances.astype(np.float64).sum(0)
        self._n += n

    def kl_to_normal(self, prior: Distribution) -> Estimate | None:
        """Return the KL in nats from the Gaussian with these moments to a normal prior, without its
        bias; None for other priors or too few rows."""
        if is_diagonal_normal(prior):
            center, spread = prior.mean, torch.diag(prior.variance)
        elif isinstance(prior, MultivariateNormal):
            center, spread = prior.mean, prior.covariance_matrix
        else:
            return None
        k = len(self._mean)
        if self._n <= k + 1:
            return None
        gap, p = self._mean - center.double().cpu().numpy(), spread.double().cpu().numpy()
        between = self._products / self._n
        whole = between + np.diag(self._variances / self._n)
        kl = 0.5 * (np.trace(np.linalg.solve(p, whole + np.outer(gap, gap))) - k)
        kl += 0.5 * float(np.linalg.slogdet(p)[1] - np.linalg.slogdet(whole)[1])
        # The covariance of n sampled means is too small. This is the bias of the KL to first order
        # in 1 / n, for Gaussian means.
        share = np.linalg.solve(whole, between)
        bias = (2 * np.trace(share) + np.trace(share) ** 2 + np.trace(share @ share)) / (
            4 * self._n
        )
        return Estimate(float(max(0.0, kl - bias)))
