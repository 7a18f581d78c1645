"""The rate-distortion curve of a model, by posteriors that are tempered towards the prior."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily

from uncollapse.latent import (
    DiagonalNormal,
    GaussianChain,
    GaussianMixture,
    diagonal_normal,
    is_diagonal_normal,
    mixture,
)
from uncollapse.measures.evaluation import evaluate
from uncollapse.measures.worker_pool import map_rows
from uncollapse.models import LatentModel

MAX_ROWS = 1000
# Exponents t of q(z|x), denser where the distortion falls fastest.
SHARES = (0.0, 0.01, 0.03, 0.07, 0.15, 0.3, 0.5, 0.75, 1.0)


def rate_distortion(model: Any, X: Any = None) -> pd.DataFrame:
    """Trace rates against distortions that a trained model can be set to (Alemi et al. 2018).

    Each q(z|x) is tempered to q(z|x)^t p(z)^(1-t), in closed form for Gaussians and step by step
    for chains. A prior with components is replaced by the Gaussian of its mean and variances, so
    that the rate can fall before it rises; an enumerated q(y|x) is tempered as well. The rate is
    KL(q_t(z|x) || p(z)), the distortion -E log p(x|z), and their sum the negative ELBO, all over
    1,000 random rows.

    Returns:
        A row for each t: ``share``, ``rate`` and ``distortion`` in nats per example. The last one,
        t = 1, is the model itself, and the only one where posteriors are not Gaussian.
    """
    with evaluate(model, X) as data:
        return rate_distortion_of_rows(data.model, data.rows[data.order[:MAX_ROWS]])


def rate_distortion_of_rows(model: LatentModel, rows: np.ndarray) -> pd.DataFrame:
    """Compute `rate_distortion` on rows, shape (n, data_dim), as the model observes them."""
    found = map_rows(model, rows, 1, "rates and distortions", _points)["points"]
    points = found.mean(0, dtype=np.float64)
    shares = SHARES if len(points) == len(SHARES) else (1.0,)
    return pd.DataFrame({"share": shares, "rate": points[:, 0], "distortion": points[:, 1]})


@torch.inference_mode()
def _points(model: LatentModel, x: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """Compute rate and distortion of each row for each share, shape (batch, shares, 2)."""
    q, points = model.posterior(x), []
    for share in SHARES:
        tempered = _temper(q, model, share)
        if tempered is not None:
            latents = model.latents(tempered, noise[0])
            points.append(torch.stack([latents.kl, -model.terms(x, latents).log_px_z], -1))
    return {"points": torch.stack(points, 1)}


def _temper(q: Distribution, model: LatentModel, share: float) -> Distribution | None:
    """Return q^share p^(1 - share), or None where it has no closed form."""
    if share == 1:
        return q
    p = model.prior()
    if isinstance(q, GaussianChain) and isinstance(p, GaussianChain):
        return q.towards(p, share)
    if is_diagonal_normal(q):
        return _temper_normal(q, p, share)
    if (
        isinstance(q, MixtureSameFamily)
        and is_diagonal_normal(q.component_distribution)
        and isinstance(model.prior, GaussianMixture)
    ):
        each = _temper_normal(q.component_distribution, model.prior.components(), share)
        return mixture(share * q.mixture_distribution.logits, each)
    return None


def _temper_normal(q: Distribution, p: Distribution, share: float) -> DiagonalNormal:
    """Return q^share p^(1 - share) as if p were a Gaussian with independent units."""
    own, other = share / q.variance, (1 - share) / p.variance
    mean = (own * q.mean + other * p.mean) / (own + other)
    return diagonal_normal(mean, (own + other).rsqrt())
