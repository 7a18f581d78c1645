"""Semi-amortized inference: posteriors that begin where the encoder puts them, and are refined for
every example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.parameters import Count, PositiveFloat, ProperShare
from uncollapse._utils.random import derived_seed, seeded
from uncollapse._utils.sharding import current_share, sharing
from uncollapse.latent import DiagonalGaussian, LSTMPosterior, Posterior
from uncollapse.models import VAE, differentiable_twice
from uncollapse.networks import BackwardEncoder, Encoder, SequenceEncoder
from uncollapse.strategies.base import Strategy

Gaussian = Float[Tensor, "batch two_l"]  # means, and then the logarithms of variances


class SemiAmortized(Strategy):
    """Gradient steps on the parameters of each q(z|x), from the encoder's output on (Kim et al.
    2018, algorithm 1).

    The model's posterior is then the refined one, in training and ever after. Gradients go through
    the refinement.

    Args:
        n_steps: of gradient descent with momentum on the negative ELBO of an example, in the means
            and log variances of its q(z|x).
        learning_rate: of a step, for each example. The authors' is 1 on means over batches of 50
            images or 32 sentences.
        momentum: of the steps.
        clip: the largest norm of an example's gradient; the rest is scaled down to it. The authors'
            5 is for the norm of the gradient of the mean over a batch, which lets single examples
            have more.
    """

    name = "semi_amortized"

    def __init__(
        self,
        n_steps: Count = 20,
        learning_rate: PositiveFloat = 0.02,
        momentum: ProperShare = 0.5,
        clip: PositiveFloat = 5.0,
    ) -> None:
        self.n_steps = n_steps
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.clip = clip

    def modify_model(self, model: VAE) -> None:
        """Put the refinement behind the encoder.

        Raises:
            InputError: if the posterior is no diagonal Gaussian.
        """
        if not isinstance(model.posterior, DiagonalGaussian | LSTMPosterior):
            raise ParameterError(
                "strategy 'semi_amortized' refines the mean and the variance of a Gaussian q(z|x), "
                "got a "
                f"{type(model.posterior).__name__}: use posterior='gaussian', and "
                "inference='marginal' with a mixture, and leave "
                "committed_rate out."
            )
        model.posterior = RefinedPosterior(model.posterior, self).of(model)


class RefinedPosterior(Posterior):
    """The q(z|x) to which gradient steps on a model's ELBO lead from a Gaussian one.

    In training, every step has draws of its own. Else they are the same for all rows, so that a
    row's posterior does not depend on the others.

    Args:
        start: the Gaussian to begin with.
        steps: how they are taken.
        model: whose ELBO it is; not a part of the posterior.
    """

    def __init__(
        self,
        start: DiagonalGaussian | LSTMPosterior,
        steps: SemiAmortized,
        model: VAE | None = None,
    ) -> None:
        super().__init__()
        self.start = start
        self.steps = steps
        self._model = (model,)  # hidden from torch, which would take it for a part

    @property
    def encoder(self) -> Encoder | SequenceEncoder | BackwardEncoder:  # type: ignore[override]
        """What looks at the data."""
        return self.start.encoder

    def of(self, model: nn.Module) -> RefinedPosterior:
        """The same, by the ELBO of another model."""
        assert isinstance(model, VAE)
        return RefinedPosterior(self.start, self.steps, model)

    def forward(self, x: Float[Tensor, "batch d"]) -> Independent[Normal]:
        """q(z|x)."""
        if torch.is_inference_mode_enabled():  # in which there are no gradients
            with torch.inference_mode(False), torch.no_grad():
                return self.forward(x.clone())
        (model,) = self._model
        assert model is not None
        q = self.start(x)
        begin = torch.cat([q.base_dist.loc, 2 * q.base_dist.scale.log()], -1)
        refinement = _Refinement(model, x, self.steps, self._seeds())
        end: Tensor = _Descent.apply(begin, refinement, *refinement.parameters)  # type: ignore[no-untyped-call]
        return _as_distribution(end)

    def _seeds(self) -> list[int]:
        if self.training:
            drawn: list[int] = torch.randint(2**62, (self.steps.n_steps,)).tolist()
            return drawn
        return [derived_seed(0, "refinement", step) for step in range(self.steps.n_steps)]


class _Refinement:
    """The steps for one batch.

    Attributes:
        parameters: of the model, that they depend on.
    """

    def __init__(self, model: VAE, x: Tensor, steps: SemiAmortized, seeds: Sequence[int]) -> None:
        self.model = model
        self.x = x
        self.steps = steps
        self.seeds = seeds
        self.share = current_share()  # of which the way back must know as well
        own = set(model.posterior.parameters())
        self.parameters = [
            parameter
            for parameter in model.parameters()
            if parameter.requires_grad and parameter not in own
        ]

    def push(self, step: int, place: Gaussian, create_graph: bool = False) -> Gaussian:
        """The gradients of the examples' negative ELBOs at a step, clipped."""
        with (
            torch.enable_grad(),
            seeded(self.seeds[step]),
            sharing(self.share),
            differentiable_twice(),
        ):
            place = place if create_graph else place.detach().requires_grad_()
            shared = self.x if self.model.training else self.x[:1]
            latents = self.model.latents(_as_distribution(place), self.model.noise(shared))
            elbo = self.model.terms(self.x, latents).elbo
            n_draws = elbo.numel() // len(self.x)
            (slope,) = torch.autograd.grad(-elbo.sum() / n_draws, place, create_graph=create_graph)
            norm = torch.linalg.vector_norm(slope, dim=-1, keepdim=True)
            push: Tensor = slope * (self.steps.clip / norm.clamp(min=self.steps.clip))
            return push


class _Descent(torch.autograd.Function):
    """Gradient descent with momentum, and the way back through it.

    Of each step, only its place is kept; on the way back the step is taken once more, and
    differentiated: Hessian-vector products without approximation, in the memory of one step.
    """

    @staticmethod
    def forward(
        ctx: Any, begin: Gaussian, refinement: _Refinement, *parameters: Tensor
    ) -> Gaussian:
        """Where the steps lead."""
        del parameters
        settings, place, velocity, places = refinement.steps, begin, torch.zeros_like(begin), []
        for step in range(settings.n_steps):
            places.append(place)
            velocity = settings.momentum * velocity + refinement.push(step, place)
            place = place - settings.learning_rate * velocity
        ctx.refinement = refinement
        ctx.save_for_backward(*places)
        return place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Gradients of where they began, and of the model's parameters."""
        refinement: _Refinement = ctx.refinement
        settings, of_place = refinement.steps, gradients[0]
        of_velocity = torch.zeros_like(of_place)
        of_parameters: list[Tensor | None] = [None for _ in refinement.parameters]
        for step in reversed(range(settings.n_steps)):
            of_velocity = of_velocity - settings.learning_rate * of_place
            with torch.enable_grad():
                place = ctx.saved_tensors[step].detach().requires_grad_()
                push = refinement.push(step, place, create_graph=True)
            through, *found = torch.autograd.grad(
                push, [place, *refinement.parameters], of_velocity, allow_unused=True
            )
            of_place = of_place + through
            of_parameters = [_sum(*pair) for pair in zip(of_parameters, found, strict=True)]
            of_velocity = settings.momentum * of_velocity
        return of_place, None, *of_parameters


def _as_distribution(place: Gaussian) -> Independent[Normal]:
    mean, log_variance = place.chunk(2, -1)
    return Independent(
        Normal(mean, (log_variance / 2).exp(), validate_args=False), 1, validate_args=False
    )


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return one if other is None else other if one is None else one + other
