"""Models of other libraries behind the interface that diagnoses read: (prior, posterior,
likelihood).

A module for each library, with two functions: `is_ours`, and `adapt_model`.
"""

from __future__ import annotations

from typing import Any

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.validation import read_array
from uncollapse.adapters import ours, pythae, scvi
from uncollapse.adapters.base import AdaptedModel, ForeignModel, VAEProtocol, evaluating, moments
from uncollapse.adapters.functions import from_functions
from uncollapse.models import LatentModel

LIBRARIES = (ours, pythae, scvi)


def adapt_model(model: Any) -> AdaptedModel:
    """Whatever can be diagnosed, ready for it.

    Args:
        model: a fitted estimator of this package, a model of pythae or scvi-tools, or an object
            with `prior()`, `posterior(x)` and `likelihood(z)` (`VAEProtocol`).

    Raises:
        InputError: if it is nothing of this kind.
    """
    for library in LIBRARIES:
        if library.is_ours(model):
            subject: AdaptedModel = library.adapt_model(model)
            return subject
    if isinstance(model, LatentModel):
        return AdaptedModel(type(getattr(model, "source", model)).__name__, model, read_array)
    if isinstance(model, VAEProtocol):
        return AdaptedModel(type(model).__name__, ForeignModel(model), read_array)
    raise ParameterError(
        "expected a fitted estimator of this package, a model of pythae or scvi-tools, or an "
        "object with prior(), posterior(x) and "
        f"likelihood(z), got {type(model).__name__}: call fit first, or see uc.from_functions for "
        "a pair of functions."
    )


__all__ = [
    "AdaptedModel",
    "ForeignModel",
    "VAEProtocol",
    "adapt_model",
    "evaluating",
    "from_functions",
    "moments",
]
