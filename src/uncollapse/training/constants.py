"""Inverse Lipschitz constants that are adjusted during training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from uncollapse.maps import MAX_CONSTANT, InverseLipschitzDecoder
from uncollapse.training.observers import Observer, Step
from uncollapse.training.processes import gather

if TYPE_CHECKING:
    from uncollapse.training.loop import Training

DECREASE = 0.85  # K23 section 5.3
# A constant is active within this relative distance of its bound. The least ratio over pairs of
# a batch exceeds the constant itself, the more so in many dimensions: with 32 latent units on
# Omniglot it stayed 1.5% above its bound.
MARGIN = 0.1
LEAST_RATE_SHARE = 0.1  # share of the learning rate below which constants stay
# Step of the dual ascent in the logarithm of a constant, for a KL that is off by its whole target.
ASCENT_RATE = 0.03
MIN_CONSTANT = 1e-3
EVERY = 10  # steps between two estimates of the first map's constant, which cost a pass through it
SETTLED = 0.1  # relative distance from the target KL that counts as reached


class Annealing(Observer):
    """Relax the constraint while it is active (K23 section 5.3).

    Where the constant of the first map, estimated on a batch, is within 10% of its bound, all
    constants are multiplied by 0.85. K23 do not say how close is close. Within 1%, hardly any batch
    of images ever is; within 10%, on one seed, the constants of images ended near those at which a
    grid finds the best likelihood.

    Args:
        decoder: the decoder whose constants are adjusted in place.
    """

    def __init__(self, decoder: InverseLipschitzDecoder) -> None:
        self.decoder = decoder

    def after_step(self, training: Training, step: Step) -> None:
        """Estimate the first map's constant in one step of ten, and relax all if it is close."""
        # Late in training, the learning rate is too low to adapt to new constants.
        if training.steps_done % EVERY or training.rate_share <= LEAST_RATE_SHARE:
            return
        z = gather(step.z.reshape(-1, step.z.shape[-1]), training.fabric)
        found = empirical_constant(self.decoder, z)
        if found <= (1 + MARGIN) * self.decoder.first_constant:
            self.decoder.set_constants([DECREASE * old for old in self.decoder.constants])


class RateTarget(Observer):
    """Dual ascent on log L towards a target KL: constants rise while the KL is below it, else fall.

    Maps follow higher constants at once and lower ones slowly: begin no higher than necessary.

    Args:
        decoder: the decoder whose constants are adjusted in place.
        target_kl: in nats.
    """

    def __init__(self, decoder: InverseLipschitzDecoder, target_kl: float) -> None:
        self.decoder = decoder
        self.target_kl = target_kl

    def has_reached_target(self, kl: float) -> bool:
        """Return whether a mean KL, in nats, is within 10% of the target."""
        return abs(kl / self.target_kl - 1) < SETTLED

    def after_step(self, training: Training, step: Step) -> None:
        """Take a step of the ascent, in proportion to the learning rate."""
        gap = max(-1.0, min(1.0, 1 - float(step.kl) / self.target_kl))
        factor = math.exp(ASCENT_RATE * training.rate_share * gap)
        bounded = [
            min(MAX_CONSTANT, max(MIN_CONSTANT, factor * old)) for old in self.decoder.constants
        ]
        self.decoder.set_constants(bounded)


@torch.no_grad()
def empirical_constant(
    decoder: InverseLipschitzDecoder, z: Float[Tensor, "*batch latent"]
) -> float:
    """Return the least |f1(z) - f1(z')| / |z - z'| over pairs of a batch, f1 the first map.

    A context is set to 0.
    """
    z = F.pad(z.detach().reshape(-1, z.shape[-1]), (0, decoder.context_dim))
    image = decoder.first(z)
    distances = torch.pdist(z)
    apart = distances > 0
    return float((torch.pdist(image)[apart] / distances[apart]).min()) if apart.any() else math.inf
