"""Objectives by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uncollapse._utils.parameters import from_specification
from uncollapse.objectives.elbo import (
    CyclicalElbo,
    Elbo,
    FreeBits,
    ImportanceWeighted,
    Objective,
)
from uncollapse.objectives.penalties import GradientPenalty, LatentReconstruction, QuotientPenalty

OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective
    for objective in (
        Elbo,
        CyclicalElbo,
        FreeBits,
        ImportanceWeighted,
        LatentReconstruction,
        GradientPenalty,
        QuotientPenalty,
    )
}


def get_objective(spec: str | Mapping[str, Mapping[str, Any]] | None) -> Objective:
    """Return an objective from its name, or from ``{name: arguments}``; None is the ELBO.

    Raises:
        InputError: if there is no objective of that name, or it does not take these arguments.

    >>> get_objective({"free_bits": {"nats": 0.5}}).nats
    0.5
    """
    return from_specification("objective", OBJECTIVES, "elbo" if spec is None else spec)
