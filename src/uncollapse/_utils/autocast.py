"""What autocast leaves in the precision of the parameters: last layers, and so all that
distributions are made of."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """A context in which operations on the tensor's device have the types of what they are
    given."""
    kind = tensor.device.type
    is_on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if is_on else nullcontext()


def exact_linear(
    layer: nn.Linear, x: Float[Tensor, "*batch inputs"]
) -> Float[Tensor, "*batch outputs"]:
    """The layer at x in the type of its parameters, whatever autocast gives to other products."""
    with without_autocast(x):
        found: Tensor = layer(x.to(layer.weight.dtype))
    return found
