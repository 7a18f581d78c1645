"""Inverse Lipschitz constants that are adjusted during training."""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from uncollapse._utils.sharding import gather
from uncollapse.maps import MAX_CONSTANT, Decoder, InverseLipschitzDecoder

DECREASE = 0.85  # K23 section 5.3
# A constant as close to its bound as this sits on it. The least ratio over pairs of a batch is
# above the constant itself, the more so in many dimensions: with 32 latent units on Omniglot it
# came to 1.5% above its bound and stayed there.
MARGIN = 0.1
LEAST_PACE = 0.1  # share of the learning rate below which constants stay
# Of the dual ascent, in the logarithm of a constant at each step, for a KL that is off by its whole
# target.
ASCENT_RATE = 0.03
MIN_CONSTANT = 1e-3
EVERY = 10  # steps between two looks at f1, which cost a pass through it

SETTLED = 0.1  # share of a wanted KL that one may be away from it


class AfterStep(Protocol):
    """What is done after each step."""

    def __call__(self, step: int, pace: float, kl: float, z: Tensor) -> None:
        """Look at the KL and the draws of a step, and at the share of the learning rate in
        force."""

    def settled(self, kl: float) -> bool:
        """Whether a model with this KL, a mean over an epoch, is one of those that are wanted."""


def adjustment(decoder: Decoder, annealing: bool, target_kl: float | None) -> AfterStep | None:
    """What is to be done with the constants after each step, if anything."""
    if not (annealing or target_kl is not None):
        return None
    assert isinstance(decoder, InverseLipschitzDecoder)
    return Annealing(decoder) if target_kl is None else RateTarget(decoder, target_kl)


class Annealing:
    """Relax the constraint where the optimum presses against it (K23 section 5.3).

    Where the constant of f1, estimated from a batch's own inputs and outputs, is close to its bound
    (within 10%), all constants are multiplied by 0.85. K23 do not say how close is close. Within 1%
    hardly any batch of images ever is; within 10%, on one seed, the constants of images ended near
    those at which a grid finds the best likelihood.

    Args:
        decoder: whose constants are adjusted in place.
    """

    def __init__(self, decoder: InverseLipschitzDecoder) -> None:
        self.decoder = decoder

    def settled(self, kl: float) -> bool:
        """Always: no KL is better than another."""
        del kl
        return True

    def __call__(self, step: int, pace: float, kl: float, z: Tensor) -> None:
        """Look at one step in ten."""
        del kl
        due = (
            step % EVERY == 0 and pace > LEAST_PACE
        )  # later nothing could adapt to another constant
        if not due:
            return
        found = empirical_constant(self.decoder, gather(z.reshape(-1, z.shape[-1])))
        if found <= (1 + MARGIN) * self.decoder.first_constant:
            self.decoder.set_constants([DECREASE * constant for constant in self.decoder.constants])


class RateTarget:
    """Dual ascent on log L towards a wanted KL: the constants rise while the KL is below it, and
    fall while it is above.

    Maps follow higher constants at once and lower ones slowly: begin no higher than need be.

    Args:
        decoder: whose constants are adjusted in place.
        target_kl: in nats.
    """

    def __init__(self, decoder: InverseLipschitzDecoder, target_kl: float) -> None:
        self.decoder = decoder
        self.target_kl = target_kl

    def settled(self, kl: float) -> bool:
        """Whether the KL is about the wanted one."""
        return abs(kl / self.target_kl - 1) < SETTLED

    def __call__(self, step: int, pace: float, kl: float, z: Tensor) -> None:
        """Take a step of the ascent, as long as the pace of training allows: what cannot follow any
        more is not to be pushed."""
        del step, z
        gap = 1 - kl / self.target_kl
        factor = math.exp(ASCENT_RATE * pace * max(-1.0, min(1.0, gap)))
        self.decoder.set_constants(
            [
                min(MAX_CONSTANT, max(MIN_CONSTANT, factor * constant))
                for constant in self.decoder.constants
            ]
        )


@torch.no_grad()
def empirical_constant(
    decoder: InverseLipschitzDecoder, z: Float[Tensor, "*batch latent"]
) -> float:
    """The least |f1(z) - f1(z')| / |z - z'| over pairs of a batch: the constant of f1 as far as the
    batch can see.

    Where there is a context, it is 0.
    """
    z = F.pad(z.detach().reshape(-1, z.shape[-1]), (0, decoder.context_dim))
    image = decoder.first(z)
    distances = torch.pdist(z)
    apart = distances > 0
    return float((torch.pdist(image)[apart] / distances[apart]).min()) if apart.any() else math.inf
