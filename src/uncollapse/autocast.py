"""What autocast leaves in the precision of the parameters: last layers, and so all that distributions are made of."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import zuko
from jaxtyping import Float
from torch import Tensor, nn


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """A context in which operations on the tensor's device have the types of what they are given."""
    kind = tensor.device.type
    is_on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if is_on else nullcontext()


def exact_linear(layer: nn.Linear, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
    """The layer at x in the type of its parameters, whatever autocast gives to other products."""
    with without_autocast(x):
        found: Tensor = layer(x.to(layer.weight.dtype))
    return found


class Perceptron(zuko.nn.MLP):  # type: ignore[misc]  # zuko is not typed
    """zuko's multilayer perceptron, with an exact last layer.

    Its outputs are what distributions are made of. In bfloat16, log rates of 8 would be 0.03 apart, and means further than the
    posteriors at large constants are wide.
    """

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """The output, in the type of the parameters."""
        *below, last = self
        for layer in below:
            x = layer(x)
        return exact_linear(last, x)
