"""The rule that selects the best of several models."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from uncollapse._utils.errors import ParameterError, brief
from uncollapse.experiments.tables import value_of

# Nats added for each nat of missing KL: any model with enough KL ranks before any without.
PENALTY = 1e6


@dataclass(frozen=True)
class SelectionRule:
    """The lowest negative log-likelihood among models with a minimum KL.

    Attributes:
        min_kl: lower limit of KL(q(z|x) || p(z)) on held-out data, in nats; 0 sets no limit.

    Raises:
        ParameterError: if the limit is not a finite number >= 0.
    """

    min_kl: float = 0.0

    def __post_init__(self) -> None:
        is_number = isinstance(self.min_kl, int | float) and not isinstance(self.min_kl, bool)
        if not is_number or not 0 <= self.min_kl < math.inf:
            raise ParameterError(
                f"min_kl expects a number of nats, 0 or more, got {brief(self.min_kl)}."
            )

    def admits(self, kl_nats: float) -> bool:
        """Return whether a KL reaches the minimum."""
        return not self.min_kl or kl_nats >= self.min_kl

    def rank(self, nll_nats: float, kl_nats: float) -> float:
        """Return the rank of a model; lower is better.

        >>> SelectionRule(2.0).rank(100.0, 2.5)
        100.0
        >>> rule = SelectionRule(2.0)
        >>> rule.rank(90.0, 1.5) > rule.rank(90.0, 1.9) > 1e4
        True
        """
        return nll_nats if self.admits(kl_nats) else nll_nats + PENALTY * (self.min_kl - kl_nats)

    def rank_row(self, row: Mapping[str, Any]) -> float:
        """Return the rank of a row of results."""
        return self.rank(value_of(row, "nll_nats"), value_of(row, "kl_nats"))

    def __str__(self) -> str:
        limit = f" at a KL of at least {self.min_kl:g} nats" if self.min_kl else ""
        return (
            f"the lowest negative log-likelihood of held-out data{limit}, both as means over seeds"
        )
