"""The relative Fisher information divergence between prior and posterior (K23 definition 3.3)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.func import jacfwd, vmap

from uncollapse.diagnostics.collapse import Estimate
from uncollapse.models import VAE, to_device
from uncollapse.noise import seeded

# Jacobians held at once.
CHUNK = 16


def relative_fisher_divergence(model: VAE, rows: np.ndarray, n_samples: int = 64, seed: int = 0) -> Estimate:
    """F(p(z) || p(z|x)) = E_p(z) |grad_z log p(x|z)|^2, averaged over the rows. Inverse squared units of z.

    The true posterior's, not q's: with z drawn from the prior, p(z) and the unknown p(x) drop out (K23 remark 3.5). For an
    exponential family grad_z log p(x|z) = J(z)' (T(x) - E[T(x)|z]), so each draw of z costs one Jacobian, whatever the number
    of rows.

    Args:
        model: its family gives T and E[T|z].
        rows: shape (n, data_dim), float32, as the family observes them.
        n_samples: draws of z, shared by all rows.
        seed: of these draws.

    Returns:
        The divergence and its Monte Carlo error over the draws of z.
    """
    statistic = model.family.sufficient(to_device(model, rows))
    with torch.no_grad(), seeded(seed):
        z = model.prior().sample((n_samples,))
        per_draw = torch.cat([_squared_scores(model, statistic, chunk) for chunk in z.split(CHUNK)])
    values = per_draw.cpu().double().numpy()
    return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(n_samples)))


def _squared_scores(model: VAE, statistic: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    jacobians = vmap(jacfwd(model.natural))(z)
    expectations = model.family.expectation(model.natural(z))
    return torch.stack(
        [((statistic - mean) @ jacobian).square().sum(1).mean() for mean, jacobian in zip(expectations, jacobians, strict=True)]
    )
