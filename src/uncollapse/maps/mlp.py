"""The decoder of an ordinary VAE."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from uncollapse.autocast import Perceptron
from uncollapse.maps.base import Decoder


class MLPDecoder(Decoder):
    """eta(z) by a multilayer perceptron, which need not be injective: nothing keeps the posterior from the prior.

    Args:
        latent_dim: l.
        natural_dim: t.
        hidden: widths of the hidden layers.
    """

    def __init__(self, latent_dim: int, natural_dim: int, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.net = Perceptron(latent_dim, natural_dim, list(hidden), activation=nn.ReLU)

    @property
    def constant(self) -> float:
        """0: nothing is promised."""
        return 0.0

    @property
    def information_constant(self) -> float:
        """0: no information is promised."""
        return 0.0

    def forward(self, z: Float[Tensor, "*batch l"]) -> Float[Tensor, "*batch t"]:
        """Natural parameters at z."""
        eta: Tensor = self.net(z)
        return eta

    @torch.no_grad()
    def start_at(self, eta: Float[Tensor, "t"]) -> None:
        """Shift the output so that the decoder maps the origin to eta."""
        self.net[-1].bias.add_(eta - self(torch.zeros(self.latent_dim).to(eta)))
