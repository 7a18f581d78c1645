"""The marginal likelihood, by importance weighting (Burda et al. 2016)."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from uncollapse.families import Family
from uncollapse.models import VAE
from uncollapse.noise import RowNoise
from uncollapse.progress import progress_bar

# Decoder evaluations in one go; more would not be faster, and would only take memory.
EVALUATIONS_AT_ONCE = 4096


def observe_rows(family: Family, rows: np.ndarray) -> np.ndarray:
    """Data as the likelihood sees them, where chance decides by noise that belongs to the row."""
    if family.is_observed(rows):
        return rows
    uniform = RowNoise(rows, "observe").uniform(rows.shape[1:])
    return family.observe(torch.as_tensor(rows), torch.as_tensor(uniform)).numpy()


@torch.inference_mode()
def importance_log_likelihood(model: VAE, rows: np.ndarray, n_samples: int = 64, verbose: bool = False) -> np.ndarray:
    """log p(x) of each row, estimated by log (1/K) sum_k p(x, z_k) / q(z_k|x) at K draws from the posterior.

    A lower bound in expectation, which rises to log p(x) with K. The draws belong to the row, so that its value does not depend on
    the other rows.

    Args:
        model: in evaluation, on any device.
        rows: shape (n, data_dim), float32, as the family observes them.
        n_samples: K.
        verbose: show a progress bar where there is a terminal.

    Returns:
        Shape (n,), in nats.
    """
    size = max(1, EVALUATIONS_AT_ONCE // n_samples)
    batches = range(0, len(rows), size)
    with progress_bar("importance sampling", len(batches), verbose) as advance:
        values = []
        for start in batches:
            values.append(_batch_log_likelihood(model, rows[start : start + size], n_samples))
            advance("")
    return np.concatenate(values)


def _batch_log_likelihood(model: VAE, rows: np.ndarray, n_samples: int) -> np.ndarray:
    latent_dim = model.prior().event_shape[0]
    noise = RowNoise(rows, "importance").normal((n_samples, latent_dim)).swapaxes(0, 1)
    weights = importance_log_weights(model, to_device(model, rows), to_device(model, noise))
    values: np.ndarray = (torch.logsumexp(weights, 0) - math.log(n_samples)).cpu().numpy()
    return values


def importance_log_weights(
    model: VAE, x: Float[Tensor, "batch data"], noise: Float[Tensor, "samples batch latent"]
) -> Float[Tensor, "samples batch"]:
    """log p(x, z) - log q(z|x) at the draws of z that the noise decides, in nats."""
    terms = model(x, noise)
    log_weights: Tensor = terms.log_px_z + terms.log_pz - terms.log_qz_x
    return log_weights


def to_device(model: VAE, array: np.ndarray) -> Tensor:
    """The array as a tensor of the model's type, on its device."""
    parameter = next(model.parameters())
    return torch.as_tensor(np.ascontiguousarray(array)).to(parameter)
