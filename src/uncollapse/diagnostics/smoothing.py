"""Proposition 3.9 of K23: a bound on the KL from Fisher divergences of smoothed distributions, where its condition is checked."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from uncollapse.models import VAE, to_device

# Latents of more dimensions have no grid.
MAX_SMOOTHED_DIM = 2
POINTS = {1: 4096, 2: 256}  # of the grid, in each dimension
HALF_WIDTH = 8.0  # of the grid, in posterior standard deviations after the most smoothing
N_TIMES = 24


def smoothed_kl_bound(model: VAE, row: np.ndarray) -> float:
    """A lower bound on KL(p(z|x) || p(z)) for one row, in nats: delta epsilon / 2, for the best delta.

    With p_t the convolution of p with N(0, t), the proposition asks that F(p_t(z|x) || p_t(z)) >= epsilon for all t in
    [0, delta]. It is checked by quadrature on a grid of z, for a grid of t; hence l <= 2.

    Args:
        model: with a standard normal prior, in float64.
        row: shape (data_dim,), as the family observes it.

    Returns:
        The bound; 0 if the condition cannot be met on the grid.
    """
    centre, deviation = _whereabouts(model, row)
    dim = len(centre)
    # Narrow posteriors need a fine grid, which then ends early: the smoothing must stay inside it.
    spacing = deviation.min() / (4 if dim == 2 else 16)
    half = spacing * POINTS[dim] / 2
    most = (half / HALF_WIDTH) ** 2 - deviation.max() ** 2
    if most <= 0:
        return 0.0
    axes = [middle + spacing * (np.arange(POINTS[dim]) - POINTS[dim] / 2) for middle in centre]
    density = _posterior_density(model, row, np.stack(np.meshgrid(*axes, indexing="ij"), -1), spacing)
    times = np.concatenate([[0.0], np.geomspace(most / 1e4, most, N_TIMES)])
    divergences = np.array([_divergence(density, axes, spacing, time) for time in times])
    return float((times * np.minimum.accumulate(divergences)).max() / 2)


def _whereabouts(model: VAE, row: np.ndarray, n_samples: int = 512, rounds: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """The posterior's mean and standard deviations, by importance sampling that starts from q(z|x) and adapts."""
    generator, x = np.random.default_rng(0), to_device(model, row[None])
    with torch.no_grad():
        q = model.posterior(x)
        centre, deviation = q.mean[0].numpy(), q.stddev[0].numpy()
        for _ in range(rounds):
            noise = generator.standard_t(5, size=(n_samples, len(centre)))
            z = torch.as_tensor(centre + 1.5 * deviation * noise)
            log_p = model.likelihood(z).log_prob(x) + model.prior().log_prob(z)
            log_q = -3 * np.log1p(noise**2 / 5).sum(1)
            weights = (log_p - torch.as_tensor(log_q)).softmax(0).numpy()
            centre = weights @ z.numpy()
            deviation = np.sqrt(weights @ (z.numpy() - centre) ** 2 + 1e-12)
    return centre, deviation


def _posterior_density(model: VAE, row: np.ndarray, grid: np.ndarray, spacing: float) -> np.ndarray:
    """p(z|x) on the grid, normalised there."""
    x, points = to_device(model, row[None]), torch.as_tensor(grid.reshape(-1, grid.shape[-1]))
    with torch.no_grad():
        log_p = torch.cat([model.likelihood(z).log_prob(x) + model.prior().log_prob(z) for z in torch.split(points, 4096)])
    density = (log_p - log_p.max()).exp().numpy().reshape(grid.shape[:-1])
    return np.asarray(density / (density.sum() * spacing ** grid.shape[-1]))


def _divergence(density: np.ndarray, axes: list[np.ndarray], spacing: float, time: float) -> float:
    """F(q_t || p_t) for the density q on the grid and p = N(0, I): the mean under q_t of |grad log q_t + z / (1 + t)|^2."""
    smoothed = gaussian_filter(density, np.sqrt(time) / spacing, truncate=6.0) if time else density
    log_density = np.log(np.maximum(smoothed, smoothed.max() * 1e-12))  # differences of it are exact for Gaussians
    total = 0.0
    for index, axis in enumerate(np.meshgrid(*axes, indexing="ij")):
        score = np.gradient(log_density, spacing, axis=index)
        total += float((smoothed * (score + axis / (1 + time)) ** 2).sum())
    return total * spacing**density.ndim
