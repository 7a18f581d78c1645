"""Random numbers for the rows of a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Draws:
    """Random numbers for a batch, from torch's global generators.

    Models, families and objectives draw through this object alone. Where several processes share
    the batch, training hands in draws for the whole batch, cut to the rows of the process.
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
