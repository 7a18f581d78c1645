"""Budgets of a training, and the meter of what it has used."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.validation import check_positive


@dataclass(frozen=True)
class Budget:
    """Decoder evaluations or seconds that a training may use, in place of a number of epochs.

    Training ends when either is used up. Schedules, such as that of the learning rate, follow the
    share of the budget that is used.

    Attributes:
        evaluations: of the decoder in training, one for each z (for each symbol, of a sequence).
        seconds: wall-clock time.

    Raises:
        InputError: if one of them is not positive.
    """

    evaluations: float = math.inf
    seconds: float = math.inf

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value != math.inf:
                check_positive(name, value)

    def part(self, share: float) -> Budget:
        """Return a share of the budget."""
        return Budget(share * self.evaluations, share * self.seconds)


def check_budget(budget: Any) -> None:
    """Raise `ParameterError` unless the budget is a `Budget` or None."""
    if not isinstance(budget, Budget | None):
        raise ParameterError(
            f"budget expects a uc.Budget, got {budget!r}. Give uc.Budget(seconds=60), for example."
        )


class Meter:
    """Decoder evaluations and seconds that a training has used."""

    def __init__(self) -> None:
        self.restart(0, 0.0)

    def restart(self, evaluations: int, seconds: float) -> None:
        """Set what has been used before."""
        self.evaluations = self.shared = evaluations
        self.start = time.perf_counter() - seconds

    def own(self, device: torch.device) -> Tensor:
        """Return this process's evaluations since they were last added up, and its seconds."""
        used = [self.evaluations - self.shared, self.seconds]
        return torch.tensor(used, dtype=torch.float64, device=device)

    def add_up(self, total: Tensor, n_processes: int) -> None:
        """Set what has been used, from the sum of what the processes' `own` returns."""
        self.shared += int(total[0])
        self.restart(self.shared, float(total[1]) / n_processes)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start

    def share(self, budget: Budget) -> float:
        """Return the share of a budget that is used."""
        return max(self.evaluations / budget.evaluations, self.seconds / budget.seconds)

    @contextmanager
    def counting(self, model: Any, budget: Budget | None) -> Iterator[None]:
        """Count the decoder's evaluations in training within the block.

        The decoder's output goes to the model's family, whatever the model is.

        Raises:
            ParameterError: if the budget limits evaluations, and the model has no family.
        """
        family = getattr(model, "family", None)
        if not isinstance(family, nn.Module):
            if budget is not None and budget.evaluations < math.inf:
                raise ParameterError(
                    "a budget of decoder evaluations needs a model with a family, got one without. "
                    "Give uc.Budget(seconds=...)."
                )
            yield
            return
        handle = family.register_forward_hook(self._count)
        try:
            yield
        finally:
            handle.remove()

    def _count(self, family: nn.Module, given: tuple[Tensor, ...], output: Any) -> None:
        del output
        if family.training:
            self.evaluations += given[0].shape[:-1].numel()
