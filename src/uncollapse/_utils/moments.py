"""Means and deviations over rows, of functions that may make wide statistics of narrow rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

# Values held at once: one-hot codes of many symbols are far wider than the rows they come from.
VALUES_AT_ONCE = 2**22

Statistic = Callable[[Tensor], Tensor]


def mean_over_rows(statistic: Statistic, rows: np.ndarray) -> Tensor:
    """Return the mean over rows of a function of rows, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    return sum((values.sum(0) for values in _blocks(statistic, rows)), total) / len(rows)


def moments_over_rows(statistic: Statistic, rows: np.ndarray) -> tuple[Tensor, float]:
    """Return the mean, and the root mean square deviation over rows and columns, in float64."""
    mean = mean_over_rows(statistic, rows)
    squares = ((values - mean).square().mean(1).sum() for values in _blocks(statistic, rows))
    return mean, float(sum(squares) / len(rows)) ** 0.5


def _blocks(statistic: Statistic, rows: np.ndarray) -> Iterator[Tensor]:
    width = statistic(torch.as_tensor(rows[:1])).shape[1]
    n = max(1, VALUES_AT_ONCE // width)
    return (
        statistic(torch.as_tensor(rows[start : start + n], dtype=torch.float64))
        for start in range(0, len(rows), n)
    )
