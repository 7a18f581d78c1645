"""What each latent unit carries, over data of any size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from uncollapse.adapters import moments
from uncollapse.measures.estimate import Estimate
from uncollapse.measures.information import ACTIVE_SHARE, ACTIVE_VARIANCE, Posteriors
from uncollapse.models import LatentModel

# Thresholds of the (epsilon, delta) curves, in nats.
EPSILONS = np.geomspace(1e-3, 30.0, 61)


class Units:
    """Sums over rows, whose memory does not grow with the rows.

    Where a sequence has a z for every symbol, a unit has one entry for each of them: means and
    variances are those at the symbols of all rows, without what the mean at a place owes to the
    place, and a unit's KL is its sum over the symbols of a row.

    Args:
        model: whose units they are.
    """

    def __init__(self, model: LatentModel) -> None:
        self.n_places = model.n_places
        self.n_units = model.latent_dim // self.n_places
        shape = (self.n_places, self.n_units)
        self.counts, self.kl = np.zeros((self.n_places, 1)), Mean()
        self.means, self.squares, self.variances = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self.unit_kl, self.matched_kl = np.zeros((2, self.n_units))
        self.above = np.zeros((len(EPSILONS), self.n_units))
        self.n = 0
        # Of posteriors and a prior that factorise alone is the KL a sum over units.
        self.is_exact = True
        with torch.no_grad():
            mean, variance = moments(model.prior())
        self._prior = mean.double().cpu().numpy(), variance.double().cpu().numpy()
        self._whole = Covariance(model.latent_dim) if self.n_places == 1 else None

    def add(self, posteriors: Posteriors, rows: np.ndarray) -> None:
        """Take in the posteriors of these rows."""
        n = len(rows)
        self.n += n
        self.kl.add(posteriors.kl)
        self.is_exact &= posteriors.kl_units is not None
        matched = self._by_unit(self._matched_kl(posteriors))
        self.matched_kl += matched.sum(0)
        kl = matched if posteriors.kl_units is None else self._by_unit(posteriors.kl_units)
        self.unit_kl += kl.sum(0)
        # How many rows pass each threshold, by a count of those between each pair of them.
        passed = np.searchsorted(EPSILONS, kl, side="right")
        for unit in range(self.n_units):
            counts = np.bincount(passed[:, unit], minlength=len(EPSILONS) + 1)
            self.above[:, unit] += counts[::-1].cumsum()[::-1][1:]
        there = (
            (rows >= 0)[:, : self.n_places, None] if self.n_places > 1 else np.ones((n, 1, 1), bool)
        )
        means, variances = (
            part.reshape(n, self.n_places, -1).astype(np.float64)
            for part in (posteriors.means, posteriors.variances)
        )
        self._add_moments(means, variances, there)
        if self._whole is not None:
            self._whole.add(posteriors.means, posteriors.variances)

    def _by_unit(self, kl: np.ndarray) -> np.ndarray:
        """Sums over the symbols of each row, shape (n, n_units)."""
        return np.asarray(kl.reshape(len(kl), self.n_places, -1).sum(1), np.float64)

    def _add_moments(self, means: np.ndarray, variances: np.ndarray, there: np.ndarray) -> None:
        """Take in means and variances at the places where there are some."""
        counts = there.sum(0)
        own = (means * there).sum(0) / np.maximum(counts, 1)
        self.means, gap, weight = _merged(self.means, self.counts, own, counts)
        self.squares += (np.square(means - own) * there).sum(0) + np.square(gap) * weight
        self.variances += (variances * there).sum(0)
        self.counts += counts

    def _matched_kl(self, posteriors: Posteriors) -> np.ndarray:
        """KL between Gaussians of the moments that q(z_d|x) and p(z_d) have."""
        mean, variance = self._prior
        ratio = np.maximum(posteriors.variances.astype(np.float64), np.finfo(float).tiny) / variance
        return np.asarray(
            0.5 * (np.square(posteriors.means - mean) / variance + ratio - 1 - np.log(ratio))
        )

    def table(self) -> pd.DataFrame:
        """What is known of each unit.

        Columns: ``unit``; ``kl_nats``, NaN where the KL does not fall into units;
        ``matched_kl_nats``, between the Gaussians with the moments of q(z_d|x) and p(z_d), which it
        always has; ``mean`` and ``deviation`` of q(z_d); ``mean_variance``, Var E[z_d|x];
        ``explained_share``, the part of the variance of q(z_d) that this is; ``active`` and
        ``informative``.
        """
        total = self.counts.sum()
        between, within = self.squares.sum(0) / total, self.variances.sum(0) / total
        with np.errstate(invalid="ignore"):
            share = between / (between + within)
        return pd.DataFrame(
            {
                "unit": np.arange(self.n_units),
                "kl_nats": self.unit_kl / self.n if self.is_exact else math.nan,
                "matched_kl_nats": self.matched_kl / self.n,
                "mean": (self.means * self.counts).sum(0) / total,
                "deviation": np.sqrt(between + within),
                "mean_variance": between,
                "explained_share": share,
                "active": between >= ACTIVE_VARIANCE,
                "informative": share >= ACTIVE_SHARE,
            }
        )

    def collapse_curves(self) -> pd.DataFrame:
        """The least delta for which a unit is (epsilon, delta)-collapsed: P(KL(q(z_d|x) || p(z_d))
        >= epsilon) over the data.

        Lucas et al. 2019, definition 1. A row for each epsilon, in nats, as the index; a column for
        each unit.
        """
        return pd.DataFrame(self.above / self.n, index=pd.Index(EPSILONS, name="epsilon"))

    def aggregate_gaussian_kl(self, model: LatentModel) -> Estimate | None:
        """KL(N(E z, Cov z) || p(z)) of the aggregate q(z), in nats, less its bias; None where the
        prior is no normal.

        KL(q(z)||p(z)) = KL(q(z) || N) + KL(N || p(z)) for a Gaussian p and the Gaussian N of q(z)'s
        moments, so that it is not below this; and this has no cap.
        """
        return None if self._whole is None else self._whole.kl_to_normal(model.prior())


def _merged(mean: Any, n: Any, own: Any, n_own: Any) -> tuple[Any, Any, Any]:
    """The mean of two samples, the gap between their means, and what the gap's square adds to
    squares (Chan et al. 1979)."""
    gap, total = own - mean, np.maximum(n + n_own, 1)
    return mean + gap * n_own / total, gap, n * n_own / total


class Mean:
    """The mean of values."""

    def __init__(self) -> None:
        self.n = 0
        self.mean = self.squares = 0.0

    def add(self, values: np.ndarray) -> None:
        """Take in these values."""
        values, n = values.astype(np.float64), len(values)
        own = values.mean()
        self.mean, gap, weight = _merged(self.mean, self.n, own, n)
        self.squares += float(np.square(values - own).sum() + gap**2 * weight)
        self.n += n

    def estimate(self) -> Estimate:
        """The mean, with its standard error."""
        error = math.sqrt(self.squares / (self.n - 1) / self.n) if self.n > 1 else math.nan
        return Estimate(float(self.mean), error)


class Covariance:
    """The moments of the aggregate q(z)."""

    def __init__(self, latent_dim: int) -> None:
        self.n = 0
        self.mean, self.products, self.variances = (
            np.zeros(latent_dim),
            np.zeros((latent_dim, latent_dim)),
            np.zeros(latent_dim),
        )

    def add(self, means: np.ndarray, variances: np.ndarray) -> None:
        """Take in posteriors of these means and variances."""
        means, n = means.astype(np.float64), len(means)
        own = means.mean(0)
        centred = means - own
        self.mean, gap, weight = _merged(self.mean, self.n, own, n)
        self.products += centred.T @ centred + np.outer(gap, gap) * weight
        self.variances += variances.astype(np.float64).sum(0)
        self.n += n

    def kl_to_normal(self, p: Distribution) -> Estimate | None:
        """KL of the Gaussian of these moments to a normal prior, in nats, less its bias; None for
        other priors, or too few rows."""
        if isinstance(p, Independent) and isinstance(p.base_dist, Normal):
            centre, spread = p.mean, torch.diag(p.variance)
        elif isinstance(p, MultivariateNormal):
            centre, spread = p.mean, p.covariance_matrix
        else:
            return None
        k = len(self.mean)
        if self.n <= k + 1:
            return None
        gap, prior = self.mean - centre.double().cpu().numpy(), spread.double().cpu().numpy()
        between = self.products / self.n
        whole = between + np.diag(self.variances / self.n)
        kl = 0.5 * (np.trace(np.linalg.solve(prior, whole + np.outer(gap, gap))) - k)
        kl += 0.5 * float(np.linalg.slogdet(prior)[1] - np.linalg.slogdet(whole)[1])
        # Means of n rows scatter, and make what they span smaller: to first order in 1 / n, for
        # Gaussian means.
        share = np.linalg.solve(whole, between)
        bias = (2 * np.trace(share) + np.trace(share) ** 2 + np.trace(share @ share)) / (4 * self.n)
        return Estimate(float(max(0.0, kl - bias)))
