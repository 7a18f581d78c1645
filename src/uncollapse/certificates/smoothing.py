"""Proposition 3.9 of K23: a bound on the KL by Fisher divergences of smoothed distributions."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from uncollapse.models import RowModel, to_device

# A grid over more latent dimensions is too large.
MAX_SMOOTHED_DIM = 2
# By latent dimension: grid points in each dimension, and in a posterior standard deviation.
POINTS, POINTS_PER_DEVIATION = {1: 4096, 2: 256}, {1: 16, 2: 4}
# Half the width of the grid in standard deviations after the most smoothing, and of the prior's.
HALF_WIDTH, PRIOR_HALF_WIDTH = 8.0, 9.0
MAX_MASS_OUTSIDE = 1e-3
N_TIMES = 48


def smoothed_kl_bound(model: RowModel, row: np.ndarray) -> float:
    """Compute a lower bound on KL(p(z|x) || p(z)) for one row, in nats: half the integral of
    F(p_t(z|x) || p_t(z)) over t in [0, delta], where p_t is the convolution of p with N(0, t).

    By de Bruijn's identity the integral is the decrease of the KL up to delta; the proposition uses
    the smaller delta times the least F. F is computed by quadrature on a grid of z, hence l <= 2,
    and integrated as a lower sum over a grid of t. The model is in float64 and has a standard
    normal prior. The bound is NaN where the grid misses a part of the posterior, which is too
    elongated or has mass elsewhere.
    """
    center, deviation = _posterior_moments(model, row)
    n_points = POINTS[len(center)]
    spacing = deviation.min() / POINTS_PER_DEVIATION[len(center)]
    most = (spacing * n_points / 2 / HALF_WIDTH) ** 2 - deviation.max() ** 2
    if not most > 4 * spacing**2:
        return math.nan
    axes = [middle + spacing * (np.arange(n_points) - n_points / 2) for middle in center]
    density = _grid_density(model, row, axes)
    if density is None:
        return math.nan
    # Smoothing by less than a grid cell changes nothing.
    times = np.concatenate([[0.0], np.geomspace(spacing**2, most, N_TIMES)])
    divergences = np.array([_divergence(density, axes, spacing, time) for time in times])
    return float((np.diff(times) * np.minimum(divergences[:-1], divergences[1:])).sum() / 2)


def _posterior_moments(
    model: RowModel, row: np.ndarray, n_samples: int = 512, rounds: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the posterior's mean and standard deviations by adaptive importance sampling from
    q(z|x)."""
    generator, x = np.random.default_rng(0), to_device(model, row[None])
    with torch.no_grad():
        q = model.posterior(x)
        center, deviation = q.mean[0].numpy(), q.stddev[0].numpy()
        for _ in range(rounds):
            noise = generator.standard_t(5, size=(n_samples, len(center)))
            z = torch.as_tensor(center + 1.5 * deviation * noise)
            log_p = model.likelihood(z).log_prob(x) + model.prior().log_prob(z)
            log_q = -3 * np.log1p(noise**2 / 5).sum(1)
            weights = (log_p - torch.as_tensor(log_q)).softmax(0).numpy()
            center = weights @ z.numpy()
            deviation = np.sqrt(weights @ (z.numpy() - center) ** 2 + 1e-12)
    return center, deviation


def _grid_density(model: RowModel, row: np.ndarray, axes: list[np.ndarray]) -> np.ndarray | None:
    """Compute p(z|x) on the grid, normalized there; None if there is mass elsewhere."""
    dim, spacing = len(axes), axes[0][1] - axes[0][0]
    wide = np.linspace(-PRIOR_HALF_WIDTH, PRIOR_HALF_WIDTH, POINTS[dim])
    everywhere = np.stack(np.meshgrid(*[wide] * dim, indexing="ij"), -1).reshape(-1, dim)
    low, high = [axis[0] for axis in axes], [axis[-1] for axis in axes]
    outside = everywhere[~((everywhere >= low) & (everywhere <= high)).all(1)]
    inside = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dim)
    log_inside, log_outside = _log_joint(model, row, inside), _log_joint(model, row, outside)
    top = max(log_inside.max(), log_outside.max(initial=-math.inf))
    mass = np.exp(log_inside - top).sum() * spacing**dim
    elsewhere = np.exp(log_outside - top).sum() * (wide[1] - wide[0]) ** dim
    if not elsewhere <= MAX_MASS_OUTSIDE * (mass + elsewhere):
        return None
    return np.asarray(np.exp(log_inside - top) / mass).reshape([len(axis) for axis in axes])


def _log_joint(model: RowModel, row: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Compute log p(x, z) at points z, shape (n, l)."""
    if not len(points):
        return np.empty(0)
    x = to_device(model, row[None])
    with torch.no_grad():
        pieces = [
            model.likelihood(z).log_prob(x) + model.prior().log_prob(z)
            for z in torch.split(torch.as_tensor(points), 4096)
        ]
    return np.asarray(torch.cat(pieces).numpy())


def _divergence(density: np.ndarray, axes: list[np.ndarray], spacing: float, time: float) -> float:
    """Compute F(q_t || p_t) for the density q on the grid and p = N(0, I), the mean under q_t of
    |grad log q_t + z / (1 + t)|^2."""
    smoothed = gaussian_filter(density, np.sqrt(time) / spacing, truncate=6.0) if time else density
    # Differences of the logarithm are exact for Gaussians.
    log_density = np.log(np.maximum(smoothed, smoothed.max() * 1e-12))
    total = 0.0
    for index, axis in enumerate(np.meshgrid(*axes, indexing="ij")):
        score = np.gradient(log_density, spacing, axis=index)
        total += float((smoothed * (score + axis / (1 + time)) ** 2).sum())
    return total * spacing**density.ndim
