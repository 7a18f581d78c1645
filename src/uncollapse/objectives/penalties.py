"""Terms beside the ELBO that push any decoder towards an injective one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.parameters import PositiveFloat, Widths
from uncollapse.models import ComposedModel, LatentModel, differentiable_twice
from uncollapse.networks import Perceptron
from uncollapse.objectives.elbo import Loss, Objective, negative_elbo


class SlopePenalty(Objective):
    """The negative ELBO + weight max(0, L - E slope)^2, without a guarantee (K23 section 4.3).

    The slope says how fast log p(x|z) changes with z, which is drawn from the prior for every
    example, as in K23 theorem 3.4.

    Args:
        slope: L, which the mean slope is pushed to reach, in nats.
        weight: weight of the squared shortfall.
    """

    def __init__(self, slope: PositiveFloat = 1.0, weight: PositiveFloat = 1.0) -> None:
        super().__init__()
        self.slope = slope
        self.weight = weight

    @abstractmethod
    def slopes(self, model: LatentModel, x: Float[Tensor, "batch data"]) -> Float[Tensor, "batch"]:
        """Return the slope at random z, for every example."""

    def forward(self, model: LatentModel, x: Float[Tensor, "batch data"], step: int) -> Loss:
        value, terms = negative_elbo(model(x))
        shortfall = F.relu(self.slope - model.batch_context.mean(self.slopes(model, x)))
        return Loss(value + self.weight * shortfall.square(), terms)


class GradientPenalty(SlopePenalty):
    """`SlopePenalty` with the slope |grad_z log p(x|z)|."""

    name = "gradient_penalty"

    def slopes(self, model: LatentModel, x: Float[Tensor, "batch data"]) -> Float[Tensor, "batch"]:
        """Return norms of gradients in z."""
        z = _from_prior(model, x).requires_grad_()
        with differentiable_twice(), torch.enable_grad():
            log_px_z = model.log_likelihood(x, z).sum()
            (gradient,) = torch.autograd.grad(log_px_z, z, create_graph=True)
        norms: Tensor = torch.linalg.vector_norm(gradient, dim=-1)
        return norms


class QuotientPenalty(SlopePenalty):
    """`SlopePenalty` with the slope |log p(x|z) - log p(x|z')| / |z - z'|."""

    name = "quotient_penalty"

    def slopes(self, model: LatentModel, x: Float[Tensor, "batch data"]) -> Float[Tensor, "batch"]:
        """Return difference quotients between two draws from the prior."""
        pair = torch.stack([_from_prior(model, x), _from_prior(model, x)])
        first, second = model.log_likelihood(x, pair)
        distances: Tensor = torch.linalg.vector_norm(pair[0] - pair[1], dim=-1)
        quotients: Tensor = (first - second).abs() / distances
        return quotients


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
        if model.n_places > 1:
            raise ParameterError(
                "objective 'latent_reconstruction' expects a decoder that sees all of z, got one "
                "that sees the z of one symbol. Leave committed_rate out, or use another objective."
            )

    @torch.no_grad()
    def prepare(self, model: ComposedModel, x: Tensor, n_steps: int) -> None:
        """Build r for the outputs of the model's decoder."""
        with record_calls(model.decoder) as calls:
            model(x)
        _, output = calls[0]
        self.recover = Perceptron(
            output.shape[-1], model.latent_dim, list(self.hidden), activation=nn.SiLU
        ).to(output)

    def forward(self, model: ComposedModel, x: Float[Tensor, "batch data"], step: int) -> Loss:
        latents = model.infer(x)  # outside the recording, as a refined posterior decodes as well
        with record_calls(model.decoder) as calls:
            value, terms = negative_elbo(model.terms(x, latents))
        # A decoder's input begins with z; a history may follow it.
        errors = [self.recover(output) - given[..., : model.latent_dim] for given, output in calls]
        distance = torch.stack([error.square().sum(-1).mean() for error in errors]).mean()
        return Loss(value + self.weight * distance, terms)


def _from_prior(model: LatentModel, x: Tensor) -> Float[Tensor, "batch latent"]:
    return model.batch_context.rows(lambda n: model.prior().sample(torch.Size([n])), len(x))


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
