"""Diagonal Gaussians made of an encoder's raw outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Independent, Normal

# The smallest standard deviation of a unit: far below the need of any sensible constant, far above
# float32's underflow.
MIN_SCALE = 1e-6


def gaussian(raw: Float[Tensor, "*batch two_l"]) -> Independent[Normal]:
    """Return N(mu, diag(sigma^2)) for raw outputs (mu, softplus^-1(sigma))."""
    mean, raw_scale = raw.chunk(2, dim=-1)
    return Independent(
        Normal(mean, F.softplus(raw_scale) + MIN_SCALE, validate_args=False), 1, validate_args=False
    )


@torch.no_grad()
def shrink_gaussian(head: nn.Linear, latent_dim: int, factor: float) -> None:
    """Multiply by a factor the means and scales that `gaussian` makes of a layer's outputs.

    Args:
        head: layer whose first 2 l outputs are raw means and scales.
        latent_dim: l.
        factor: at most 1.
    """
    head.weight[:latent_dim] *= factor
    head.bias[:latent_dim] *= factor
    raw_scales = head.bias[latent_dim : 2 * latent_dim]
    raw_scales.copy_((factor * F.softplus(raw_scales)).expm1().log())


def shifted(normal: Normal, noise: Tensor) -> Tensor:
    """Return mu + sigma noise, the draw that standard normal noise decides."""
    return normal.loc + normal.scale * noise
