"""Latent reconstruction: a decoder that another network can undo."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.parameters import PositiveFloat, Widths
from uncollapse.models import ComposedModel
from uncollapse.networks import Perceptron
from uncollapse.objectives.base import Loss, Objective
from uncollapse.objectives.elbo import negative_elbo


class LatentReconstruction(Objective):
    """The negative ELBO + weight E|r(decoder(z)) - z|^2 (arXiv 2508.12530).

    The network r is trained with the model. Where r undoes the decoder, the decoder is injective,
    whatever its architecture.

    Args:
        weight: weight of the squared distance, in nats.
        hidden: widths of the hidden layers of r.
    """

    name = "latent_reconstruction"

    def __init__(self, weight: PositiveFloat = 1.0, hidden: Widths = (256, 256)) -> None:
        super().__init__()
        self.weight = weight
        self.hidden = hidden

    def check(self, model: ComposedModel, x: Tensor) -> None:
        """Raise `ParameterError` if the decoder sees z in parts, as that of a delta-VAE does."""
        del x
        if model.n_places > 1:
            raise ParameterError(
                "objective 'latent_reconstruction' expects a decoder that sees all of z, got one "
                "that sees the z of one symbol. Leave committed_rate out, or use another objective."
            )

    @torch.no_grad()
    def prepare(self, model: ComposedModel, x: Tensor, n_steps: int) -> None:
        """Build r for the outputs of the model's decoder."""
        del n_steps
        with record_calls(model.decoder) as calls:
            model(x)
        _, output = calls[0]
        self.recover = Perceptron(
            output.shape[-1], model.latent_dim, list(self.hidden), activation=nn.SiLU
        ).to(output)

    def forward(self, model: ComposedModel, x: Float[Tensor, "batch data"], step: int) -> Loss:
        """Compute the loss."""
        del step
        latents = model.infer(x)  # outside the recording, as a refined posterior decodes as well
        with record_calls(model.decoder) as calls:
            value, terms = negative_elbo(model.terms(x, latents))
        # A decoder's input begins with z; a history may follow it.
        errors = [self.recover(output) - given[..., : model.latent_dim] for given, output in calls]
        distance = torch.stack([error.square().sum(-1).mean() for error in errors]).mean()
        return Loss(value + self.weight * distance, terms)


@contextmanager
def record_calls(decoder: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Record the input and the output of each call of a decoder within the block."""
    calls: list[tuple[Tensor, Tensor]] = []
    handle = decoder.register_forward_hook(
        lambda module, given, output: calls.append((given[0], output))
    )
    try:
        yield calls
    finally:
        handle.remove()
