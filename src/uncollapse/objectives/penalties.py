"""Penalties that push any decoder towards an inverse Lipschitz constant (K23 section 4.3)."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from uncollapse._utils.parameters import PositiveFloat
from uncollapse.models import LatentModel, differentiable_twice
from uncollapse.objectives.base import Loss, Objective
from uncollapse.objectives.elbo import negative_elbo


class SlopePenalty(Objective):
    """The negative ELBO + weight max(0, L - E slope)^2, without a guarantee.

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
        """Compute the loss."""
        del step
        value, terms = negative_elbo(model(x))
        shortfall = F.relu(self.slope - model.batch.mean(self.slopes(model, x)))
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


def _from_prior(model: LatentModel, x: Tensor) -> Float[Tensor, "batch latent"]:
    return model.batch.rows(lambda n: model.prior().sample(torch.Size([n])), len(x))
