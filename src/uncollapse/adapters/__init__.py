"""Adapters that let diagnoses read VAEs of any library."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.validation import read_array
from uncollapse.adapters import pythae, scvi
from uncollapse.adapters.base import (
    REQUIRED,
    AdaptedModel,
    ForeignModel,
    VAEProtocol,
    moments,
)
from uncollapse.adapters.functions import from_functions
from uncollapse.models import LatentModel

# Functions that adapt the models of a library, by the beginning of the names of its modules.
LIBRARIES: dict[str, Callable[[Any], AdaptedModel]] = {
    "pythae.models.": pythae.adapt,
    "scvi.model.": scvi.adapt,
}


def adapt_model(model: Any) -> AdaptedModel:
    """Return the model in the form that diagnoses read.

    Args:
        model: a fitted estimator of this package, a model of pythae or scvi-tools, or an object
            with `prior()`, `posterior(x)` and `likelihood(z)` (see `VAEProtocol`).

    Raises:
        ParameterError: if the model is none of these.
    """
    if isinstance(model, LatentModel):
        name = type(getattr(model, "source", model)).__name__
        return AdaptedModel(name, model, read_array)
    if hasattr(model, "check_rows") and hasattr(model, "model_"):
        return _adapt_estimator(model)
    for prefix, adapt in LIBRARIES.items():
        if any(kind.__module__.startswith(prefix) for kind in type(model).__mro__):
            return adapt(model)
    if not _missing(model):
        return AdaptedModel(type(model).__name__, ForeignModel(model), read_array)
    raise ParameterError(_why_not(model))


def _adapt_estimator(estimator: Any) -> AdaptedModel:
    """Return a fitted estimator of this package in the form that diagnoses read."""
    vocabulary = getattr(estimator, "vocabulary_", None)
    return AdaptedModel(
        name=type(estimator).__name__,
        model=estimator.model_,
        read=lambda batch: estimator.check_rows(
            batch.flatten(1) if isinstance(batch, Tensor) and batch.dim() > 2 else batch
        ),
        history=estimator.history_,
        vocabulary=vocabulary,
        decode=None if vocabulary is None else estimator.inverse_transform,
        is_ours=True,
    )


def _missing(model: Any) -> list[str]:
    """Return the methods that a model lacks to be diagnosed."""
    return [call for call in REQUIRED if not callable(getattr(model, call.split("(")[0], None))]


def _why_not(model: Any) -> str:
    name, missing = type(model).__name__, _missing(model)
    if len(missing) < len(REQUIRED):
        return (
            f"{name} has no {' and no '.join(missing)}. A model needs {', '.join(REQUIRED)} to be "
            "diagnosed."
        )
    if hasattr(model, "fit") and hasattr(model, "get_params"):
        return f"{name} is not fitted. Call fit first."
    return (
        "expected a fitted estimator of this package, a model of pythae or scvi-tools, or an "
        f"object with {', '.join(REQUIRED)}, got {name}. For a pair of functions, use "
        "uc.from_functions."
    )


__all__ = [
    "AdaptedModel",
    "ForeignModel",
    "VAEProtocol",
    "adapt_model",
    "from_functions",
    "moments",
]
