"""Models of other libraries behind the interface that diagnoses read: (prior, posterior, likelihood).

A module for each library, with two functions: `is_ours`, and `as_subject`.
"""

from __future__ import annotations

from typing import Any

from uncollapse.adapters import ours, pythae, scvi
from uncollapse.adapters.base import ForeignModel, Subject, Triple, evaluating, moments
from uncollapse.adapters.functions import from_functions
from uncollapse.errors import InputError
from uncollapse.inputs import read_array
from uncollapse.models import LatentModel

LIBRARIES = (ours, pythae, scvi)


def as_subject(model: Any) -> Subject:
    """Whatever can be diagnosed, ready for it.

    Args:
        model: a fitted estimator of this package, a model of pythae or scvi-tools, or an object with `prior()`, `posterior(x)` and
            `likelihood(z)` (`Triple`).

    Raises:
        InputError: if it is nothing of this kind.
    """
    for library in LIBRARIES:
        if library.is_ours(model):
            subject: Subject = library.as_subject(model)
            return subject
    if isinstance(model, LatentModel):
        return Subject(type(getattr(model, "source", model)).__name__, model, read_array)
    if isinstance(model, Triple):
        return Subject(type(model).__name__, ForeignModel(model), read_array)
    raise InputError(
        "expected a fitted estimator of this package, a model of pythae or scvi-tools, or an object with prior(), posterior(x) and "
        f"likelihood(z), got {type(model).__name__}: call fit first, or see uc.from_functions for a pair of functions."
    )


__all__ = ["ForeignModel", "Subject", "Triple", "as_subject", "evaluating", "from_functions", "moments"]
