"""How many latent units the data can support at the decoder's noise."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.distributions import Independent, Normal

from uncollapse.adapters import ForeignModel
from uncollapse.models import VAE, LatentModel, SequenceVAE
from uncollapse.noise import seeded

MAX_FEATURES = 4096
N_NOISE_DRAWS = 64


def supported_units(model: LatentModel, rows: np.ndarray) -> int | None:
    """How many eigenvalues of the data's covariance exceed the variance of the decoder's noise.

    A linear VAE keeps a unit only where one does (Lucas et al. 2019; arXiv 2510.01621 finds the same threshold for deep ones), as a
    unit whose signal is below the noise costs more nats than it gains. In n rows of d features noise alone has eigenvalues up to
    (1 + sqrt(d / n))^2 times its variance (Marchenko & Pastur 1967); those count for nothing.

    Args:
        model: with a Gaussian p(x|z), of one scale for all columns or of several, by which the columns are then measured.
        rows: shape (n, *features).

    Returns:
        The number, which may exceed the number of latent units; None for other likelihoods, or for more than 4,096 features.
    """
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    n, n_features = flat.shape
    scale = noise_scale(model) if n_features <= MAX_FEATURES else None
    if scale is None:
        return None
    eigenvalues = np.linalg.svd((flat - flat.mean(0)) / scale.reshape(-1), compute_uv=False) ** 2 / (n - 1)
    return int((eigenvalues > (1 + math.sqrt(n_features / n)) ** 2).sum())


@torch.no_grad()
def noise_scale(model: LatentModel) -> np.ndarray | None:
    """The standard deviation of a Gaussian p(x|z), for each column or one for all; its mean over z where it moves with z."""
    if isinstance(model, SequenceVAE) or not isinstance(model, VAE | ForeignModel):
        return None
    with seeded(0):
        z = model.prior().sample(torch.Size([N_NOISE_DRAWS]))
    p = model.likelihood(z)
    if not (isinstance(p, Independent) and isinstance(p.base_dist, Normal)):
        return None
    return np.asarray(p.variance.mean(0).sqrt().double().cpu().numpy())
