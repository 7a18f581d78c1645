"""The batch that a model is trained on: its random numbers and its means."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class BatchContext:
    """The whole batch of a step: random numbers for its rows, and means over them.

    Models, families and objectives draw through this object alone, from torch's global generators.
    Where several processes share the batch, training hands in a context that draws for the whole
    batch, and returns the rows of the process.
    """

    def rows(self, draw: Callable[[int], Tensor], n: int, dim: int = 0) -> Tensor:
        """Return `draw(n)`, the draws for n rows, which dimension `dim` of the result counts."""
        del dim
        return draw(n)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of values over the rows of the batch, their first dimension."""
        return values.mean(0)

    def normal(self, like: Tensor, size: int, *samples: int) -> Tensor:
        """Return standard normal draws for the rows of `like`, shape (*samples, n, size)."""

        def draw(n: int) -> Tensor:
            return torch.randn(*samples, n, size, device=like.device, dtype=like.dtype)

        return self.rows(draw, len(like), dim=len(samples))

    def uniform(self, like: Tensor) -> Tensor:
        """Return draws from U(0, 1) for every value of `like`."""

        def draw(n: int) -> Tensor:
            return torch.rand(n, *like.shape[1:], device=like.device, dtype=like.dtype)

        return self.rows(draw, len(like))
