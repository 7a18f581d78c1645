r"""Exponential families p(x|eta) = h(x) exp(T(x)·eta - A(eta)), in minimal natural parameters.

The inverse Lipschitz constant of a decoder is a statement about natural parameters, so that is what every decoder outputs,
and a family turns them into a distribution: ``family(eta)`` is p(x|z). A Gaussian of scale sigma has eta = mean / sigma; were
the scale kept outside the natural parameter, learning it could undo any constraint on the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uncollapse.errors import InputError
from uncollapse.families.base import Family
from uncollapse.families.continuous import Beta, ContinuousBernoulli, Exponential
from uncollapse.families.discrete import Bernoulli, Categorical, NegativeBinomial, Poisson
from uncollapse.families.gaussian import Gaussian, HeteroscedasticGaussian
from uncollapse.parameters import check_parameters

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
    name, arguments = (spec, {}) if isinstance(spec, str) else _single_item(spec)
    if name not in FAMILIES:
        raise InputError(f"family expects one of {', '.join(map(repr, FAMILIES))}, got {name!r}.")
    return FAMILIES[name](**check_parameters(FAMILIES[name], arguments, what=f"argument of family {name!r}"))


def _single_item(spec: Mapping[str, Mapping[str, Any]]) -> tuple[str, Mapping[str, Any]]:
    if len(spec) != 1 or not all(isinstance(arguments, Mapping) for arguments in spec.values()):
        raise InputError(f"family expects a name or one {{name: {{argument: value}}}}, got {spec!r}.")
    return next(iter(spec.items()))
