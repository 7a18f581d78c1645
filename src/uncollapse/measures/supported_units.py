"""How many latent units the data can support at the decoder's noise."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.distributions import Independent, Normal

from uncollapse._utils.random import seeded
from uncollapse.adapters import ForeignModel
from uncollapse.models import LatentModel, RowModel

MAX_FEATURES = 2048
ROWS_AT_ONCE = 1024
N_NOISE_DRAWS = 64


def supported_units(model: LatentModel, rows: np.ndarray) -> int | None:
    """How many eigenvalues of the data's covariance exceed the variance of the decoder's noise.

    A linear VAE keeps a unit only where one does (Lucas et al. 2019; arXiv 2510.01621 finds the
    same threshold for deep ones), as a unit whose signal is below the noise costs more nats than it
    gains. In n rows of d features noise alone has eigenvalues up to (1 + sqrt(d / n))^2 times its
    variance (Marchenko & Pastur 1967); those count for nothing.

    Args:
        model: with a Gaussian p(x|z), of one scale for all columns or of several, by which the
            columns are then measured.
        rows: shape (n, *features).

    Returns:
        The number, which may exceed the number of latent units; None for other likelihoods, or for
        more than 2,048 features.
    """
    flat = rows.reshape(len(rows), -1)
    n, n_features = flat.shape
    scale = noise_scale(model) if n_features <= MAX_FEATURES else None
    if scale is None:
        return None
    mean, covariance = flat.mean(0, dtype=np.float64), np.zeros((n_features, n_features))
    for start in range(0, n, ROWS_AT_ONCE):
        centred = (flat[start : start + ROWS_AT_ONCE] - mean) / scale.reshape(-1)
        covariance += centred.T @ centred / (n - 1)
    return int((np.linalg.eigvalsh(covariance) > (1 + math.sqrt(n_features / n)) ** 2).sum())


@torch.no_grad()
def noise_scale(model: LatentModel) -> np.ndarray | None:
    """The standard deviation of a Gaussian p(x|z), for each column or one for all; its mean over z
    where it moves with z."""
    if not isinstance(model, RowModel | ForeignModel):
        return None
    with seeded(0):
        z = model.draw_prior(N_NOISE_DRAWS)
    p = model.likelihood(z)
    if not (isinstance(p, Independent) and isinstance(p.base_dist, Normal)):
        return None
    return np.asarray(p.variance.mean(0).sqrt().double().cpu().numpy())
