"""What training minimises: functions (model, x, step) -> Loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from uncollapse.models import VAE, Terms


class Loss(NamedTuple):
    """The number to minimise, in nats per example, and the terms it was made of."""

    value: Float[Tensor, ""]
    terms: Terms


Objective = Callable[[VAE, Tensor, int], Loss]


def elbo(model: VAE, x: Float[Tensor, "batch data"], step: int) -> Loss:
    """The negative evidence lower bound, -E_q log p(x|z) + KL(q(z|x) || p(z)) (Kingma & Welling 2014), at draws of z."""
    return WeightedElbo()(model, x, step)


@dataclass(frozen=True)
class WeightedElbo:
    """The negative evidence lower bound with a weight on its KL, which can rise to it along a line.

    Draws that do not follow the parameters of q leave its value as it is, and add what its gradient lacks (`score_term`).

    Attributes:
        beta: the weight, of the beta-VAE (Higgins et al. 2017).
        warmup_steps: those in which the weight rises from 0 (Bowman et al. 2016).
    """

    beta: float = 1.0
    warmup_steps: int = 0

    def __call__(self, model: VAE, x: Float[Tensor, "batch data"], step: int) -> Loss:
        """The loss, of which the terms are whole."""
        terms = model(x)
        weight = self.beta * min(1.0, step / self.warmup_steps if self.warmup_steps else 1.0)
        bound = terms.log_px_z - weight * terms.latents.kl
        if terms.latents.log_q is not None:
            bound = bound + score_term(bound, terms.latents.log_q)
        return Loss(-bound.mean(), terms)


def score_term(bound: Float[Tensor, "samples batch"], log_q: Float[Tensor, "samples batch"]) -> Float[Tensor, "samples batch"]:
    """0, whose gradient is (f_s - b_s) grad log q(z_s|x), for the bound f at S >= 2 draws and b_s its mean at the other S - 1.

    The mean over s estimates E[f grad log q] without bias (REINFORCE leave-one-out, Kool et al. 2019).
    """
    n_samples = len(bound)
    gain = (bound - bound.mean(0)).detach() * n_samples / (n_samples - 1)
    return gain * (log_q - log_q.detach())
