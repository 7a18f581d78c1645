"""Penalties that press any decoder towards an inverse Lipschitz constant, without a guarantee (K23
section 4.3)."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from uncollapse._utils.parameters import PositiveFloat
from uncollapse._utils.sharding import batch_mean, draw_rows
from uncollapse.models import VAE, differentiable_twice
from uncollapse.objectives.base import Loss, Objective
from uncollapse.objectives.elbo import elbo


class SlopePenalty(Objective):
    """The negative ELBO + weight max(0, L - E slope)^2, where the slope says how fast log p(x|z)
    changes with z.

    z is drawn from the prior, as in theorem 3.4, for every example.

    Args:
        slope: L, which the mean is pressed to reach, in nats.
        weight: of the square of what it falls short.
    """

    def __init__(self, slope: PositiveFloat = 1.0, weight: PositiveFloat = 1.0) -> None:
        super().__init__()
        self.slope = slope
        self.weight = weight

    @abstractmethod
    def slopes(self, model: VAE, x: Float[Tensor, "batch data"]) -> Float[Tensor, "batch"]:
        """The slope at random places, for every example."""

    def forward(self, model: VAE, x: Float[Tensor, "batch data"], step: int) -> Loss:
        """The loss."""
        value, terms = elbo(model, x, step)
        lacking = F.relu(self.slope - batch_mean(self.slopes(model, x)))
        return Loss(value + self.weight * lacking.square(), terms)


class GradientPenalty(SlopePenalty):
    """`SlopePenalty` with |grad_z log p(x|z)|."""

    name = "gradient_penalty"

    def slopes(self, model: VAE, x: Float[Tensor, "batch data"]) -> Float[Tensor, "batch"]:
        """Norms of gradients in z."""
        z = _from_prior(model, x).requires_grad_()
        with differentiable_twice(), torch.enable_grad():
            (gradient,) = torch.autograd.grad(
                model.log_likelihood(x, z).sum(), z, create_graph=True
            )
        norms: Tensor = torch.linalg.vector_norm(gradient, dim=-1)
        return norms


class QuotientPenalty(SlopePenalty):
    """`SlopePenalty` with |log p(x|z) - log p(x|z')| / |z - z'|."""

    name = "quotient_penalty"

    def slopes(self, model: VAE, x: Float[Tensor, "batch data"]) -> Float[Tensor, "batch"]:
        """Difference quotients between two draws from the prior."""
        pair = torch.stack([_from_prior(model, x), _from_prior(model, x)])
        first, second = model.log_likelihood(x, pair)
        distances: Tensor = torch.linalg.vector_norm(pair[0] - pair[1], dim=-1)
        quotients: Tensor = (first - second).abs() / distances
        return quotients


def _from_prior(model: VAE, x: Tensor) -> Float[Tensor, "batch latent"]:
    return draw_rows(lambda n: model.prior().sample((n,)), len(x))
