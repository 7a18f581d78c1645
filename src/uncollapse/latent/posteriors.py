"""Approximate posteriors q(z|x): modules that map data to a distribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
import zuko
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Independent, Normal

# The smallest standard deviation of a unit: far below what any sensible constant needs, far above float32's underflow.
MIN_SCALE = 1e-6


class DiagonalGaussian(nn.Module):
    """q(z|x) = N(mu(x), diag(sigma(x)^2)), with mu and sigma from one multilayer perceptron on features of x.

    Features are centred and divided by one number (see `adapt`), so that training does not depend on the units of the data.

    Args:
        data_dim: dimension of x.
        latent_dim: dimension of z.
        hidden: widths of the hidden layers.
        features: what the perceptron sees of x, such as the `features` of a family; x itself if not given.
    """

    shift: Tensor
    unit: Tensor

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        hidden: Sequence[int] = (64, 64),
        features: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.features = features or _themselves
        width = self.features(torch.zeros(1, data_dim)).shape[-1]
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("unit", torch.ones(()))
        self.net = zuko.nn.MLP(width, 2 * latent_dim, list(hidden), activation=nn.ReLU)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Independent[Normal]:
        """q(z|x)."""
        mean, raw_scale = self.net((self.features(x) - self.shift) / self.unit).chunk(2, dim=-1)
        return Independent(Normal(mean, F.softplus(raw_scale) + MIN_SCALE, validate_args=False), 1, validate_args=False)

    @torch.no_grad()
    def adapt(self, mean: Float[Tensor, "features"], deviation: float) -> None:
        """Centre features at `mean` and measure them in units of `deviation`."""
        self.shift.copy_(mean)
        self.unit.fill_(deviation)


def _themselves(x: Tensor) -> Tensor:
    return x


def reparameterise(q: Independent[Normal], noise: Float[Tensor, "*samples batch latent"] | None = None) -> Tensor:
    """Draws from q as a differentiable function of standard normal noise; one draw from the global generator if none is given."""
    loc, scale = q.base_dist.loc, q.base_dist.scale
    return loc + scale * (torch.randn_like(loc) if noise is None else noise)
