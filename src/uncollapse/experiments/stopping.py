"""By what the best of several models is chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from uncollapse._utils.errors import ParameterError, brief

PENALTY = 1e6  # nats, for each that a KL lacks: whatever has the KL comes before whatever has not


@dataclass(frozen=True)
class Rule:
    """The lowest negative log-likelihood, of models whose latents say something.

    Attributes:
        min_kl: what KL(q(z|x) || p(z)) of held-out data must be at least, in nats; 0 asks for
            nothing.

    Raises:
        InputError: if it is no such number.
    """

    min_kl: float = 0.0

    def __post_init__(self) -> None:
        if (
            isinstance(self.min_kl, bool)
            or not isinstance(self.min_kl, int | float)
            or not 0 <= self.min_kl < math.inf
        ):
            raise ParameterError(
                f"min_kl expects a number of nats, 0 or more, got {brief(self.min_kl)}."
            )

    def admits(self, kl_nats: float) -> bool:
        """Whether a model has the KL."""
        return not self.min_kl or kl_nats >= self.min_kl

    def rank(self, nll_nats: float, kl_nats: float) -> float:
        """What a model is worth, the lower the better.

        >>> Rule(2.0).rank(100.0, 2.5)
        100.0
        >>> Rule(2.0).rank(90.0, 1.5) > Rule(2.0).rank(90.0, 1.9) > 1e4
        True
        """
        return nll_nats if self.admits(kl_nats) else nll_nats + PENALTY * (self.min_kl - kl_nats)

    def __str__(self) -> str:
        at = f" at a KL of at least {self.min_kl:g} nats" if self.min_kl else ""
        return f"the lowest negative log-likelihood of held-out data{at}, both as means over seeds"
