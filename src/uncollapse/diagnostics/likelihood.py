"""The marginal likelihood, by importance weighting (Burda et al. 2016)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from uncollapse.models import VAE, to_device
from uncollapse.noise import RowNoise
from uncollapse.progress import progress_bar

# Decoder evaluations in one go; more would not be faster, and would only take memory.
EVALUATIONS_AT_ONCE = 4096


@torch.inference_mode()
def importance_log_likelihood(model: VAE, rows: np.ndarray, n_samples: int = 64, verbose: bool = False) -> np.ndarray:
    """log p(x) of each row, estimated by log (1/K) sum_k p(x, z_k) / q(z_k|x) at K draws from the posterior.

    A lower bound in expectation, which rises to log p(x) with K. The draws belong to the row, so that its value does not depend on
    the other rows.

    Args:
        model: in evaluation, on any device.
        rows: shape (n, data_dim), float32, as the family observes them.
        n_samples: K; for a model that enumerates components, of each of them.
        verbose: show a progress bar where there is a terminal.

    Returns:
        Shape (n,), in nats.
    """
    batches = row_batches(model, rows, n_samples, "importance sampling", verbose)
    weights = (importance_log_weights(model, x, noise) for x, noise in batches)
    return np.concatenate([(torch.logsumexp(part, 0) - math.log(len(part))).cpu().numpy() for part in weights])


def row_batches(
    model: VAE, rows: np.ndarray, n_samples: int, purpose: str, verbose: bool
) -> Iterator[tuple[Float[Tensor, "batch data"], Float[Tensor, "samples batch latent"]]]:
    """Rows with standard normal noise that belongs to each of them, in batches that a decoder can take at once.

    Args:
        model: whose type and device the tensors get.
        rows: shape (n, data_dim).
        n_samples: draws for each row.
        purpose: what the noise is for, and the label of the progress bar.
        verbose: show a progress bar where there is a terminal.
    """
    noise, shape = RowNoise(rows, purpose), (n_samples, model.latent_dim)
    batches = _batches(model.evaluations(rows, n_samples))
    with progress_bar(purpose, len(batches), verbose) as advance:
        for batch in batches:
            yield to_device(model, rows[batch]), to_device(model, noise.normal(shape, batch).swapaxes(0, 1))
            advance("")


def _batches(costs: np.ndarray) -> list[slice]:
    """Slices of rows whose costs do not exceed what can be done at once, but for single rows."""
    batches, start, total = [], 0, 0
    for row, cost in enumerate(costs):
        if row > start and total + cost > EVALUATIONS_AT_ONCE:
            batches.append(slice(start, row))
            start, total = row, 0
        total += cost
    return [*batches, slice(start, len(costs))]


def importance_log_weights(
    model: VAE, x: Float[Tensor, "batch data"], noise: Float[Tensor, "samples batch latent"]
) -> Float[Tensor, "draws batch"]:
    """log p(x, z) - log q(z|x) at the draws of z that the noise decides, in nats; more draws where components are enumerated."""
    z, log_ratio = model.propose(x, noise)
    return model.log_likelihood(x, z) + log_ratio
