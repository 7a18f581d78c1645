"""Multilayer perceptrons: the encoder and the decoder of an ordinary VAE."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
import zuko
from jaxtyping import Float
from torch import Tensor, nn

from uncollapse._utils.autocast import exact_linear
from uncollapse.maps.base import Decoder

Features = Callable[[Tensor], Tensor]


class Perceptron(zuko.nn.MLP):  # type: ignore[misc]  # zuko is not typed
    """zuko's multilayer perceptron, with an exact last layer.

    Its outputs are what distributions are made of. In bfloat16, log rates of 8 would be 0.03 apart,
    and means further than the posteriors at large constants are wide.
    """

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """The output, in the type of the parameters."""
        *below, last = self
        for layer in below:
            x = layer(x)
        return exact_linear(last, x)


class Encoder(nn.Module):
    """A multilayer perceptron on features of x, centred and divided by one number so that training
    is free of the data's units.

    Args:
        data_dim: dimension of x.
        out_dim: dimension of the output.
        hidden: widths of the hidden layers.
        features: what the perceptron sees of x, such as the `features` of a family; x itself if not
            given.
    """

    shift: Tensor
    unit: Tensor

    def __init__(
        self, data_dim: int, out_dim: int, hidden: Sequence[int], features: Features | None = None
    ) -> None:
        super().__init__()
        self.features = features or _themselves
        width = self.features(torch.zeros(1, data_dim)).shape[-1]
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("unit", torch.ones(()))
        self.net = Perceptron(width, out_dim, list(hidden), activation=nn.SiLU)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch out"]:
        """The perceptron's output."""
        out: Tensor = self.net((self.features(x) - self.shift) / self.unit)
        return out

    @torch.no_grad()
    def initialize_from_data(self, mean: Float[Tensor, "features"], deviation: float) -> None:
        """Centre features at `mean` and measure them in units of `deviation`."""
        self.shift.copy_(mean)
        self.unit.fill_(deviation)

    @torch.no_grad()
    def narrow(self, latent_dim: int, factor: float) -> None:
        """Multiply the means and scales that `gaussian` makes of the first outputs by a factor,
        before training."""
        head = self.net[-1]
        head.weight[:latent_dim] *= factor
        head.bias[:latent_dim] *= factor
        raw_scales = head.bias[latent_dim : 2 * latent_dim]
        raw_scales.copy_((factor * F.softplus(raw_scales)).expm1().log())


class MLPDecoder(Decoder):
    """eta(z) by a multilayer perceptron, which need not be injective: nothing keeps the posterior
    from the prior.

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


def _themselves(x: Tensor) -> Tensor:
    return x
