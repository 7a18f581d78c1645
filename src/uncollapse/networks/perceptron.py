"""Multilayer perceptrons: the encoder and the decoder of an ordinary VAE."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import zuko
from jaxtyping import Float
from torch import Tensor, nn

from uncollapse._utils.autocast import exact_linear
from uncollapse._utils.moments import moments_over_rows
from uncollapse.maps import NetworkDecoder

Features = Callable[[Tensor], Tensor]


class Perceptron(zuko.nn.MLP):  # type: ignore[misc]  # zuko is not typed
    """zuko's multilayer perceptron, whose last layer ignores autocast.

    Distributions are made of its outputs. In bfloat16, log rates of 8 would be 0.03 apart, and
    means further apart than posteriors at large constants are wide.
    """

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Return the output, in the type of the parameters."""
        *below, last = self
        for layer in below:
            x = layer(x)
        return exact_linear(last, x)


class PerceptronEncoder(nn.Module):
    """Perceptron on features of x, centered and divided by one number.

    `initialize_from_data` sets both, so that training does not depend on the units of the data.

    Args:
        data_dim: dimension of x.
        out_dim: dimension of the output.
        hidden: widths of the hidden layers.
        features: function of x that the perceptron sees, such as the `features` of a family;
            the identity by default.
    """

    shift: Tensor
    unit: Tensor

    def __init__(
        self,
        data_dim: int,
        out_dim: int,
        hidden: Sequence[int] = (64, 64),
        features: Features | None = None,
    ) -> None:
        super().__init__()
        self.features = features or _identity
        width = self.features(torch.zeros(1, data_dim)).shape[-1]
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("unit", torch.ones(()))
        self.net = Perceptron(width, out_dim, list(hidden), activation=nn.SiLU)

    @property
    def head(self) -> nn.Linear:
        """The last layer, which is zuko's `Linear`."""
        head: nn.Linear = self.net[-1]
        return head

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch out"]:
        """Return the perceptron's output at x."""
        out: Tensor = self.net((self.features(x) - self.shift) / self.unit)
        return out

    @torch.no_grad()
    def initialize_from_data(self, data: np.ndarray) -> None:
        """Center and scale the features by their moments over rows of shape (n, d)."""
        mean, deviation = moments_over_rows(self.features, data)
        self.shift.copy_(mean)
        self.unit.fill_(deviation or 1.0)


class MLPDecoder(NetworkDecoder):
    """Perceptron eta(z), which need not be injective: its posterior may collapse.

    Args:
        latent_dim: l.
        natural_dim: t.
        hidden: widths of the hidden layers.
    """

    net: Perceptron

    def __init__(self, latent_dim: int, natural_dim: int, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__(Perceptron(latent_dim, natural_dim, list(hidden), activation=nn.ReLU))
        self.latent_dim = latent_dim

    @torch.no_grad()
    def start_at(self, eta: Float[Tensor, "t"]) -> None:
        self.net[-1].bias.add_(eta - self(torch.zeros(self.latent_dim).to(eta)))


def _identity(x: Tensor) -> Tensor:
    return x
