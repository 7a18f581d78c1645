"""Adapter of this package's fitted estimators."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from uncollapse.adapters.base import AdaptedModel


def matches(model: Any) -> bool:
    """Return whether the model is a fitted estimator of this package."""
    return hasattr(model, "check_rows") and hasattr(model, "model_")


def adapt(model: Any) -> AdaptedModel:
    """Return the estimator in the form that diagnoses read."""
    vocabulary = getattr(model, "vocabulary_", None)
    return AdaptedModel(
        name=type(model).__name__,
        model=model.model_,
        read=lambda batch: model.check_rows(
            batch.flatten(1) if isinstance(batch, Tensor) and batch.dim() > 2 else batch
        ),
        history=model.history_,
        vocabulary=vocabulary,
        decode=None if vocabulary is None else model.inverse_transform,
        is_ours=True,
    )
