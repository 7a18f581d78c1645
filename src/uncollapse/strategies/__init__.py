"""How posteriors are found: encoders trained beside the decoder, ahead of it, or refined for every
example.

`get_strategy` makes one of what ``strategy=`` says.
"""

from collections.abc import Mapping
from typing import Any

from uncollapse._utils.parameters import from_specification
from uncollapse.strategies.base import Joint, Strategy, TrainingState
from uncollapse.strategies.lagging import Lagging
from uncollapse.strategies.semi_amortized import RefinedPosterior, SemiAmortized

__all__ = [
    "STRATEGIES",
    "Joint",
    "Lagging",
    "RefinedPosterior",
    "SemiAmortized",
    "Strategy",
    "TrainingState",
    "get_strategy",
]

STRATEGIES: dict[str, type[Strategy]] = {
    strategy.name: strategy for strategy in (Joint, Lagging, SemiAmortized)
}


def get_strategy(spec: str | Mapping[str, Mapping[str, Any]] | None) -> Strategy:
    """A strategy from its name, or from ``{name: arguments}``; None is joint training.

    Raises:
        InputError: if there is no strategy of that name, or it does not take these arguments.

    >>> get_strategy({"lagging": {"every": 15}}).every
    15
    """
    return from_specification("strategy", STRATEGIES, "joint" if spec is None else spec)
