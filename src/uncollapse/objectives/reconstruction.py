"""Latent reconstruction: a decoder that another network can undo."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.parameters import PositiveFloat, Widths
from uncollapse.models import VAE
from uncollapse.networks import Perceptron
from uncollapse.objectives.base import Loss, Objective
from uncollapse.objectives.elbo import negative_elbo


class LatentReconstruction(Objective):
    """The negative ELBO + weight E|r(decoder(z)) - z|^2, with a network r that is trained as well
    (arXiv 2508.12530).

    Where r undoes the decoder, the decoder is injective, whatever its architecture.

    Args:
        weight: of the squared distance, in nats.
        hidden: widths of the hidden layers of r.
    """

    name = "latent_reconstruction"

    def __init__(self, weight: PositiveFloat = 1.0, hidden: Widths = (256, 256)) -> None:
        super().__init__()
        self.weight = weight
        self.hidden = hidden

    def check(self, model: VAE, x: Tensor) -> None:
        """Raise `InputError` if the decoder sees z in parts, as that of a delta-VAE does."""
        del x
        if model.n_places > 1:
            raise ParameterError(
                "objective 'latent_reconstruction' expects a decoder that sees all of z, got one "
                "that sees the z of a symbol: "
                "leave committed_rate out, or use another objective."
            )

    @torch.no_grad()
    def prepare(self, model: VAE, x: Tensor, n_steps: int) -> None:
        """Build r, for what the decoder puts out."""
        del n_steps
        with recorded(model.decoder) as calls:
            model(x)
        _, output = calls[0]
        self.recover = Perceptron(
            output.shape[-1], model.latent_dim, list(self.hidden), activation=nn.SiLU
        ).to(output)

    def forward(self, model: VAE, x: Float[Tensor, "batch data"], step: int) -> Loss:
        """The loss."""
        del step
        latents = model.infer(x)  # which may ask the decoder as well
        with recorded(model.decoder) as calls:
            value, terms = negative_elbo(model.terms(x, latents))
        # What else the decoder is given, such as a history, comes after z.
        errors = [self.recover(output) - given[..., : model.latent_dim] for given, output in calls]
        distance = torch.stack([error.square().sum(-1).mean() for error in errors]).mean()
        return Loss(value + self.weight * distance, terms)


@contextmanager
def recorded(decoder: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """What a decoder is given and puts out, call by call."""
    calls: list[tuple[Tensor, Tensor]] = []
    handle = decoder.register_forward_hook(
        lambda module, given, output: calls.append((given[0], output))
    )
    try:
        yield calls
    finally:
        handle.remove()
