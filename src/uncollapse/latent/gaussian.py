"""Diagonal Gaussians from what an encoder puts out."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, Normal

# The smallest standard deviation of a unit: far below what any sensible constant needs, far above
# float32's underflow.
MIN_SCALE = 1e-6


def gaussian(raw: Float[Tensor, "*batch two_l"]) -> Independent[Normal]:
    """A diagonal Gaussian from its means and its scales before softplus, which raw holds one after
    the other."""
    mean, raw_scale = raw.chunk(2, dim=-1)
    return Independent(
        Normal(mean, F.softplus(raw_scale) + MIN_SCALE, validate_args=False), 1, validate_args=False
    )


def shifted(normal: Normal, noise: Tensor) -> Tensor:
    """The draw from a Gaussian that standard normal noise decides."""
    return normal.loc + normal.scale * noise
