"""Fitted estimators of this package."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from uncollapse.adapters.base import AdaptedModel
from uncollapse.models import SequenceVAE


def is_ours(model: Any) -> bool:
    """Whether it is an estimator that has been fitted."""
    return hasattr(model, "check_rows") and hasattr(model, "model_")


def adapt_model(model: Any) -> AdaptedModel:
    """The estimator, ready to be diagnosed."""
    of_documents = isinstance(model.model_, SequenceVAE)
    return AdaptedModel(
        name=type(model).__name__,
        model=model.model_,
        read=lambda batch: model.check_rows(
            batch.flatten(1) if isinstance(batch, Tensor) and batch.dim() > 2 else batch
        ),
        history=model.history_,
        vocabulary=model.vocabulary_ if of_documents else None,
        decode=model.inverse_transform if of_documents else None,
        is_ours=True,
    )
