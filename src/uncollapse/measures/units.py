"""Measures of single latent units, and counts of those that carry information."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import torch

from uncollapse._utils.random import seeded
from uncollapse.adapters import ForeignModel
from uncollapse.latent import is_diagonal_normal
from uncollapse.measures.estimate import Estimate
from uncollapse.measures.evaluation import evaluate
from uncollapse.models import LatentModel, RowModel

MAX_FEATURES = 2048
COUNTED_ROWS_AT_ONCE = 1024
N_NOISE_DRAWS = 64


def unit_table(model: Any, X: Any = None) -> pd.DataFrame:
    """Describe each latent unit: its KL, moments and shares, as `UnitSums.table` does."""
    with evaluate(model, X) as data:
        return data.sums.table()


def kl_per_unit(model: Any, X: Any = None) -> np.ndarray:
    """Compute KL(q(z_d|x) || p(z_d)) of each unit in nats, mean over the rows, shape (n_units,).

    The values are NaN where the KL is not a sum over units.
    """
    return unit_table(model, X)["kl_nats"].to_numpy()


def active_units(model: Any, X: Any = None) -> Estimate:
    """Count the units with Var_x E[z_d|x] >= 0.01 (Burda et al. 2016).

    The rule depends on the scale of z: a large inverse Lipschitz constant shrinks the means of
    units that carry information.
    """
    return Estimate(float(unit_table(model, X)["active"].sum()))


def informative_units(model: Any, X: Any = None) -> Estimate:
    """Count the units with at least 1% of their variance explained by x, whatever the scale of
    z."""
    return Estimate(float(unit_table(model, X)["informative"].sum()))


def collapse_curves(model: Any, X: Any = None) -> pd.DataFrame:
    """Compute the least delta for which each unit is (epsilon, delta)-collapsed: the share of rows
    with KL(q(z_d|x) || p(z_d)) >= epsilon (Lucas et al. 2019, definition 1).

    There is a row for each epsilon in nats, which is the index, and a column for each unit.
    """
    with evaluate(model, X) as data:
        return data.sums.collapse_curves()


def supported_units(model: Any, X: Any = None) -> Estimate | None:
    """Count the eigenvalues of the data's covariance above the variance of the decoder's noise.

    A linear VAE keeps a unit only where there is one (Lucas et al. 2019; arXiv 2510.01621 finds the
    same threshold for deep ones), as a unit with a signal below the noise costs more nats than it
    gains. In n rows of d features noise alone has eigenvalues up to (1 + sqrt(d / n))^2 times its
    variance (Marchenko & Pastur 1967); these do not count.

    The count may exceed the number of latent units. It is unknown unless p(x|z) is Gaussian, and
    for more than 2,048 features.
    """
    with evaluate(model, X) as data:
        flat = data.rows.reshape(len(data.rows), -1)
        n, n_features = flat.shape
        scale = noise_scale(data.model) if n_features <= MAX_FEATURES else None
        if scale is None:
            return None
        mean, covariance = flat.mean(0, dtype=np.float64), np.zeros((n_features, n_features))
        for start in range(0, n, COUNTED_ROWS_AT_ONCE):
            centered = (flat[start : start + COUNTED_ROWS_AT_ONCE] - mean) / scale.reshape(-1)
            covariance += centered.T @ centered / (n - 1)
        largest_of_noise = (1 + math.sqrt(n_features / n)) ** 2
        return Estimate(float((np.linalg.eigvalsh(covariance) > largest_of_noise).sum()))


@torch.no_grad()
def noise_scale(model: LatentModel) -> np.ndarray | None:
    """Return the standard deviation of a Gaussian p(x|z), for each column or one for all, averaged
    over z; None for other likelihoods."""
    if not isinstance(model, RowModel | ForeignModel):
        return None
    with seeded(0):
        z = model.draw_prior(N_NOISE_DRAWS)
    p = model.likelihood(z)
    if not is_diagonal_normal(p):
        return None
    return np.asarray(p.variance.mean(0).sqrt().double().cpu().numpy())
