"""Operations that autocast leaves in the precision of the parameters."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Return a context that disables autocast on the tensor's device."""
    kind = tensor.device.type
    is_on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if is_on else nullcontext()


def exact_linear(
    layer: nn.Linear, x: Float[Tensor, "*batch inputs"]
) -> Float[Tensor, "*batch outputs"]:
    """Apply a linear layer in the precision of its parameters.

    Last layers need it, as distributions are made of their outputs.
    """
    with without_autocast(x):
        found: Tensor = layer(x.to(layer.weight.dtype))
    return found


class LSTM(nn.LSTM):
    """An LSTM that keeps the type of its parameters on processors without bfloat16 products.

    PyTorch's LSTM fails under autocast there: oneDNN has no kernel for it.
    """

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Return the states at all symbols, and the last ones, of a batch or a packed sequence."""
        is_rounded = input.data.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if not is_rounded or torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return super().forward(input, hx)
        with without_autocast(input.data):
            return super().forward(input.to(self.weight_ih_l0.dtype), hx)
