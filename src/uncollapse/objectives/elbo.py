"""The evidence lower bound, with a weight on its KL that may follow a schedule."""

from __future__ import annotations

import warnings
from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor

from uncollapse._utils.parameters import Count, Natural, PositiveFloat, Share
from uncollapse.models import LatentModel, Terms
from uncollapse.objectives.base import Loss, Objective


class ScheduledElbo(Objective):
    """The negative evidence lower bound with a weight on its KL that depends on the step."""

    @abstractmethod
    def weight(self, step: int) -> float:
        """Return the weight of the KL at a step."""

    def forward(self, model: LatentModel, x: Float[Tensor, "batch data"], step: int) -> Loss:
        """Compute the loss."""
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
        del model, x
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
        del model, x
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
