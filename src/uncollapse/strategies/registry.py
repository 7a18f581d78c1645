"""Strategies by name."""

from collections.abc import Mapping
from typing import Any

from uncollapse._utils.parameters import from_specification
from uncollapse.strategies.base import Joint, Strategy
from uncollapse.strategies.lagging import Lagging
from uncollapse.strategies.semi_amortized import SemiAmortized

STRATEGIES: dict[str, type[Strategy]] = {
    strategy.name: strategy for strategy in (Joint, Lagging, SemiAmortized)
}


def get_strategy(spec: str | Mapping[str, Mapping[str, Any]] | None) -> Strategy:
    """Return a strategy from its name, or from ``{name: arguments}``; None is joint training.

    Raises:
        InputError: if there is no strategy of that name, or it does not take these arguments.

    >>> get_strategy({"lagging": {"every": 15}}).every
    15
    """
    return from_specification("strategy", STRATEGIES, "joint" if spec is None else spec)
