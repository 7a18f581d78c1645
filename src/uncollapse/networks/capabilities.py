"""Optional capabilities of encoders, beside their forward pass."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import zuko
from torch import nn


@runtime_checkable
class InitializedFromData(Protocol):
    """An encoder that starts at values suited to the data."""

    def initialize_from_data(self, data: np.ndarray) -> None:
        """Prepare for data like these rows, before training."""


def linear_head(encoder: nn.Module) -> nn.Linear | None:
    """Return the last layer of an encoder that has a linear one as `head`, else None."""
    head = getattr(encoder, "head", None)
    return head if isinstance(head, nn.Linear | zuko.nn.Linear) else None
