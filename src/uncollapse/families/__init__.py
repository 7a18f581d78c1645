r"""Exponential families p(x|eta) = h(x) exp(T(x)·eta - A(eta)), in minimal natural parameters.

The inverse Lipschitz constant of a decoder is a statement about natural parameters, so that is what
every decoder outputs, and a family turns them into a distribution: ``family(eta)`` is p(x|z). A
Gaussian of scale sigma has eta = mean / sigma; were the scale kept outside the natural parameter,
learning it could undo any constraint on the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uncollapse._utils.parameters import from_specification
from uncollapse.families.base import Family
from uncollapse.families.continuous import Beta, ContinuousBernoulli, Exponential
from uncollapse.families.discrete import Bernoulli, Categorical, NegativeBinomial, Poisson
from uncollapse.families.gaussian import Gaussian, HeteroscedasticGaussian

__all__ = [
    "FAMILIES",
    "Bernoulli",
    "Beta",
    "Categorical",
    "ContinuousBernoulli",
    "Exponential",
    "Family",
    "Gaussian",
    "HeteroscedasticGaussian",
    "NegativeBinomial",
    "Poisson",
    "get_family",
]

FAMILIES: dict[str, type[Family]] = {
    family.name: family
    for family in (
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
}


def get_family(spec: str | Mapping[str, Mapping[str, Any]] | Family) -> Family:
    """A family from its name, from ``{name: arguments}``, or as it is.

    Raises:
        InputError: if there is no family of that name, or it does not take these arguments.

    >>> get_family({"gaussian": {"scale": 2.0}})
    Gaussian(scale=2)
    """
    if isinstance(spec, Family):
        return spec
    return from_specification("family", FAMILIES, spec)
