"""Semi-amortized inference: posteriors that start at the encoder's output and are refined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.parameters import Count, PositiveFloat, ProperShare
from uncollapse._utils.random import derived_seed, seeded
from uncollapse.latent import DiagonalGaussian, DiagonalNormal, Posterior, diagonal_normal
from uncollapse.models import LatentModel, differentiable_twice
from uncollapse.strategies.base import Strategy

Gaussian = Float[Tensor, "batch two_l"]  # means, then logarithms of variances


class SemiAmortized(Strategy):
    """Refine each q(z|x) by gradient steps from the encoder's output (Kim et al. 2018, alg. 1).

    The model's posterior is the refined one, in training and afterwards. Gradients go through the
    refinement.

    Args:
        n_steps: steps of gradient descent with momentum on the negative ELBO of an example, in the
            means and log variances of its q(z|x).
        learning_rate: size of a step, for each example. The authors take 1 on means over batches of
            50 images or 32 sentences.
        momentum: momentum of the steps.
        clip: largest norm of an example's gradient; larger ones are scaled down to it. The authors
            clip the gradient of the mean over a batch at 5, which lets single examples have more.
    """

    name = "semi_amortized"

    def __init__(
        self,
        n_steps: Count = 20,
        learning_rate: PositiveFloat = 0.02,
        momentum: ProperShare = 0.5,
        clip: PositiveFloat = 5.0,
    ) -> None:
        self.n_steps, self.learning_rate = n_steps, learning_rate
        self.momentum, self.clip = momentum, clip

    def modify_model(self, model: LatentModel) -> None:
        """Refine the output of the model's posterior.

        Raises:
            ParameterError: if the posterior is not a diagonal Gaussian.
        """
        if isinstance(model.posterior, RefinedPosterior):  # of an earlier training
            model.posterior = model.posterior.start
        if not isinstance(model.posterior, DiagonalGaussian):
            raise ParameterError(
                "strategy 'semi_amortized' refines the mean and the variance of a Gaussian q(z|x), "
                f"got a {type(model.posterior).__name__}. Use posterior='gaussian', and "
                "inference='marginal' with a mixture, and leave committed_rate out."
            )
        model.posterior = RefinedPosterior(model.posterior, self, model)


class RefinedPosterior(Posterior):
    """The q(z|x) that gradient steps on a model's ELBO reach from a Gaussian one.

    In training, every step has new draws of z. Otherwise they are the same for all rows, so that a
    row's posterior does not depend on the other rows.

    Args:
        start: the Gaussian posterior that the steps start from.
        steps: settings of the steps.
        model: the model whose ELBO is maximized; it is not a part of the posterior.
    """

    def __init__(self, start: DiagonalGaussian, steps: SemiAmortized, model: LatentModel) -> None:
        super().__init__()
        self.start, self.steps = start, steps
        self._model = (model,)  # in a tuple, as torch would register the model as a submodule

    def initialize_from_data(self, data: np.ndarray, shrinkage: float = 1.0) -> None:
        self.start.initialize_from_data(data, shrinkage)

    def bind(self, model: LatentModel) -> RefinedPosterior:
        """Return the posterior with steps on the ELBO of another model."""
        return RefinedPosterior(self.start, self.steps, model)

    def forward(self, x: Float[Tensor, "batch d"]) -> DiagonalNormal:
        if torch.is_inference_mode_enabled():  # in which there are no gradients
            with torch.inference_mode(False), torch.no_grad():
                return self.forward(x.clone())
        q = self.start(x)
        begin = torch.cat([q.base_dist.loc, 2 * q.base_dist.scale.log()], -1)
        refinement = _Refinement(self._model[0], x, self.steps, self._seeds())
        end: Tensor = _Descent.apply(begin, refinement, *refinement.parameters)
        return _as_distribution(end)

    def _seeds(self) -> list[int]:
        if self.training:
            drawn: list[int] = torch.randint(2**62, (self.steps.n_steps,)).tolist()
            return drawn
        return [derived_seed(0, "refinement", step) for step in range(self.steps.n_steps)]


class _Refinement:
    """The steps for one batch.

    Attributes:
        parameters: the model's trained parameters, but for those of the posterior.
    """

    def __init__(
        self, model: LatentModel, x: Tensor, steps: SemiAmortized, seeds: Sequence[int]
    ) -> None:
        self.model, self.x, self.steps, self.seeds = model, x, steps, seeds
        posterior: nn.Module = model.posterior  # type: ignore[assignment]
        own = set(posterior.parameters())
        self.parameters = [
            parameter
            for parameter in model.parameters()
            if parameter.requires_grad and parameter not in own
        ]

    def gradient(self, step: int, place: Gaussian, create_graph: bool = False) -> Gaussian:
        """Return the clipped gradient of each example's negative ELBO at a step."""
        with torch.enable_grad(), seeded(self.seeds[step]), differentiable_twice():
            place = place if create_graph else place.detach().requires_grad_()
            shared = self.x if self.model.training else self.x[:1]
            latents = self.model.latents(_as_distribution(place), self.model.noise(shared))
            elbo = self.model.terms(self.x, latents).elbo
            n_draws = elbo.numel() // len(self.x)
            (slope,) = torch.autograd.grad(-elbo.sum() / n_draws, place, create_graph=create_graph)
            norm = torch.linalg.vector_norm(slope, dim=-1, keepdim=True)
            clipped: Tensor = slope * (self.steps.clip / norm.clamp(min=self.steps.clip))
            return clipped


class _Descent(torch.autograd.Function):
    """Gradient descent with momentum, and its exact derivative.

    Forward keeps the place of each step alone. Backward takes each step once more and
    differentiates it: Hessian-vector products without approximation, in the memory of one step.
    """

    @staticmethod
    def forward(
        ctx: Any, begin: Gaussian, refinement: _Refinement, *parameters: Tensor
    ) -> Gaussian:
        """Return the place after all steps."""
        steps, place, velocity, places = refinement.steps, begin, torch.zeros_like(begin), []
        for step in range(steps.n_steps):
            places.append(place)
            velocity = steps.momentum * velocity + refinement.gradient(step, place)
            place = place - steps.learning_rate * velocity
        ctx.refinement = refinement
        ctx.save_for_backward(*places)
        return place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return gradients of the start and of the model's parameters."""
        refinement: _Refinement = ctx.refinement
        steps, of_place = refinement.steps, gradients[0]
        of_velocity = torch.zeros_like(of_place)
        of_parameters: list[Tensor | None] = [None for _ in refinement.parameters]
        for step in reversed(range(steps.n_steps)):
            of_velocity = of_velocity - steps.learning_rate * of_place
            with torch.enable_grad():
                place = ctx.saved_tensors[step].detach().requires_grad_()
                slope = refinement.gradient(step, place, create_graph=True)
            through, *found = torch.autograd.grad(
                slope, [place, *refinement.parameters], of_velocity, allow_unused=True
            )
            of_place = of_place + through
            of_parameters = [_sum(*pair) for pair in zip(of_parameters, found, strict=True)]
            of_velocity = steps.momentum * of_velocity
        return of_place, None, *of_parameters


def _as_distribution(place: Gaussian) -> DiagonalNormal:
    mean, log_variance = place.chunk(2, -1)
    return diagonal_normal(mean, (log_variance / 2).exp())


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return one if other is None else other if one is None else one + other
