"""Families by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uncollapse._utils.parameters import from_specification
from uncollapse.families.base import Family
from uncollapse.families.continuous import Beta, ContinuousBernoulli, Exponential
from uncollapse.families.discrete import Bernoulli, Categorical, NegativeBinomial, Poisson
from uncollapse.families.gaussian import Gaussian, HeteroscedasticGaussian

_ALL: tuple[type[Family], ...] = (
    Bernoulli,
    Categorical,
    Poisson,
    NegativeBinomial,
    Gaussian,
    HeteroscedasticGaussian,
    ContinuousBernoulli,
    Beta,
    Exponential,
)
FAMILIES: dict[str, type[Family]] = {family.name: family for family in _ALL}


def get_family(spec: str | Mapping[str, Mapping[str, Any]] | Family) -> Family:
    """Return a family from its name, from ``{name: arguments}``, or unchanged.

    Raises:
        InputError: if there is no family of that name, or it does not take these arguments.

    >>> get_family({"gaussian": {"scale": 2.0}})
    Gaussian(scale=2)
    """
    if isinstance(spec, Family):
        return spec
    return from_specification("family", FAMILIES, spec)
