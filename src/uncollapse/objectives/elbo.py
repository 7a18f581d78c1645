"""Bounds on log p(x): the evidence lower bound with weights and free bits, and the
importance-weighted one."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.parameters import Count, Natural, PositiveFloat, Share
from uncollapse.models import EnumeratedMixtureModel, LatentModel, Terms


class Loss(NamedTuple):
    """A loss to minimize, in nats per example, and the terms that it is made of."""

    value: Float[Tensor, ""]
    terms: Terms


class Objective(nn.Module, ABC):
    """A function (model, x, step) -> `Loss`. Parameters of its own are trained with the model's.

    Attributes:
        name: the name in specifications.
    """

    name: ClassVar[str]

    def check(self, model: Any, x: Float[Tensor, "batch data"]) -> None:
        """Raise `InputError` if the objective does not suit the model; x are a few rows."""
        del model, x

    def prepare(self, model: Any, x: Float[Tensor, "batch data"], n_steps: int) -> None:
        """Prepare for a training of `n_steps` in all; x are a few rows."""
        del model, x, n_steps

    @abstractmethod
    def forward(self, model: Any, x: Float[Tensor, "batch data"], step: int) -> Loss:
        """Compute the loss on a batch at a step of the training."""


class ScheduledElbo(Objective):
    """The negative evidence lower bound with a weight on its KL that depends on the step."""

    @abstractmethod
    def weight(self, step: int) -> float:
        """Return the weight of the KL at a step."""

    def forward(self, model: LatentModel, x: Float[Tensor, "batch data"], step: int) -> Loss:
        return negative_elbo(model(x), self.weight(step))


class Elbo(ScheduledElbo):
    """-E_q log p(x|z) + beta KL(q(z|x) || p(z)).

    Args:
        beta: weight of the KL: 1 for the bound itself (Kingma & Welling 2014), another number for
            the beta-VAE (Higgins et al. 2017).
        warmup_steps: steps in which the weight rises linearly from 0 (Bowman et al. 2016).
    """

    name = "elbo"

    def __init__(self, beta: PositiveFloat = 1.0, warmup_steps: Natural = 0) -> None:
        super().__init__()
        self.beta = beta
        self.warmup_steps = warmup_steps

    def prepare(self, model: LatentModel, x: Tensor, n_steps: int) -> None:
        """Warn if training ends before the weight has reached beta."""
        if self.warmup_steps >= n_steps:
            warnings.warn(
                f"the weight of the KL rises over {self.warmup_steps} steps, but training has "
                f"{n_steps}: it never reaches beta={self.beta:g}. Lower warmup_steps or train "
                "longer.",
                UserWarning,
                stacklevel=2,
            )

    def weight(self, step: int) -> float:
        """Return beta times the share of the warm-up that is done."""
        return self.beta * min(1.0, step / self.warmup_steps if self.warmup_steps else 1.0)


class CyclicalElbo(ScheduledElbo):
    """-E_q log p(x|z) + beta_t KL(q(z|x) || p(z)), beta_t rising in cycles (Fu et al. 2019).

    Args:
        n_cycles: M, cycles in the whole training.
        rising: R, share of a cycle in which the weight rises linearly from 0; then it stays.
        beta: weight at the end of each cycle.
    """

    name = "cyclical"

    def __init__(self, n_cycles: Count = 4, rising: Share = 0.5, beta: PositiveFloat = 1.0) -> None:
        super().__init__()
        self.n_cycles = n_cycles
        self.rising = rising
        self.beta = beta
        self.n_steps = 0

    def prepare(self, model: LatentModel, x: Tensor, n_steps: int) -> None:
        """Store the length of the training; warn if it is too short for the cycles."""
        self.n_steps = n_steps
        if n_steps * self.rising < 2 * self.n_cycles:
            warnings.warn(
                f"{self.n_cycles} cycles do not fit into {n_steps} steps: the weight of the KL "
                "cannot rise step by step. Lower n_cycles or train longer.",
                UserWarning,
                stacklevel=2,
            )

    def weight(self, step: int) -> float:
        """Return beta times the share of the cycle's rise that is done."""
        place = step * self.n_cycles / self.n_steps
        risen = (place - int(place)) / self.rising
        return self.beta * (1.0 if place >= self.n_cycles else min(1.0, risen))


class FreeBits(Objective):
    """-E_q log p(x|z) + sum_d max(lambda, KL_d) (Kingma et al. 2016, equation 15).

    KL_d is the mean over the batch of the KL of unit d.

    Args:
        nats: lambda, the nats that each unit has free.
    """

    name = "free_bits"

    def __init__(self, nats: PositiveFloat = 0.1) -> None:
        super().__init__()
        self.nats = nats

    @torch.no_grad()
    def check(self, model: LatentModel, x: Tensor) -> None:
        """Raise `ParameterError` if the KL does not fall into units."""
        if model.kl_per_unit(model.infer(x)) is None:
            raise ParameterError(
                "objective 'free_bits' expects a KL that is a sum over units, which this prior or "
                "posterior does not have. Use a Gaussian posterior with a VAE, or "
                "inference='enumerate' with a mixture."
            )

    def forward(self, model: LatentModel, x: Float[Tensor, "batch data"], step: int) -> Loss:
        terms = model(x)
        units: Tensor = model.kl_per_unit(terms.latents)  # type: ignore[assignment]  # see check
        rest = terms.latents.kl - units.sum(-1)  # the KL of enumerated components
        free = model.batch_context.mean(units).clamp(min=self.nats).sum()
        return Loss(-terms.log_px_z.mean() + free + rest.mean(), terms)


class ImportanceWeighted(Objective):
    """-log (1/K) sum_k p(x, z_k) / q(z_k|x), which approaches -log p(x) (Burda et al. 2016, eq. 8).

    Args:
        n_samples: K.
    """

    name = "importance_weighted"

    def __init__(self, n_samples: Count = 8) -> None:
        super().__init__()
        self.n_samples = n_samples

    def check(self, model: LatentModel, x: Tensor) -> None:
        """Raise `ParameterError` for a model whose q(y|x) has no part in the bound."""
        if isinstance(model, EnumeratedMixtureModel):
            raise ParameterError(
                "objective 'importance_weighted' would leave q(y|x) untrained under "
                "inference='enumerate'. Use inference='marginal', or another objective."
            )

    def forward(self, model: LatentModel, x: Float[Tensor, "batch data"], step: int) -> Loss:
        """Compute the loss; its terms are those of the evidence lower bound at the same draws."""
        noise = model.batch_context.normal(x, model.latent_dim, self.n_samples)
        z, log_ratio = model.propose(x, noise)
        log_px_z = model.log_likelihood(x, z)
        bound = (log_px_z + log_ratio).logsumexp(0) - math.log(len(z))
        with torch.no_grad():
            terms = Terms(log_px_z.mean(0), model.infer(x, noise))
        return Loss(-bound.mean(), terms)


def negative_elbo(terms: Terms, weight: float = 1.0) -> Loss:
    """Return the mean over examples of -log p(x|z) + weight KL (Kingma & Welling 2014).

    Draws that are not reparameterised add a `score_term`, which has value 0.
    """
    bound = terms.log_px_z - weight * terms.latents.kl
    if terms.latents.log_q is not None:
        bound = bound + score_term(bound, terms.latents.log_q)
    return Loss(-bound.mean(), terms)


def score_term(
    bound: Float[Tensor, "samples batch"], log_q: Float[Tensor, "samples batch"]
) -> Float[Tensor, "samples batch"]:
    """Return 0 with the gradient (f_s - b_s) grad log q(z_s|x), by REINFORCE leave-one-out.

    f is the bound at S >= 2 draws and b_s its mean at the other S - 1. The mean over s estimates
    E[f grad log q] without bias (Kool et al. 2019).
    """
    n_samples = len(bound)
    gain = (bound - bound.mean(0)).detach() * n_samples / (n_samples - 1)
    return gain * (log_q - log_q.detach())
