"""What a training may use up."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from uncollapse._utils.validation import check_positive
from uncollapse.models import VAE


@dataclass(frozen=True)
class Budget:
    """Evaluations of the decoder, or seconds, in which a training has to be done, whichever are
    used up first.

    It takes the place of a number of epochs: what follows a schedule over the training, such as the
    learning rate, follows the share of the budget that is used.

    Attributes:
        evaluations: of the decoder in training, one for each z (for each symbol, of a sequence)
            that it is given.
        seconds: by the clock on the wall.

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
        """So much of it."""
        return Budget(share * self.evaluations, share * self.seconds)


class Meter:
    """What a training has used up so far.

    Args:
        evaluations: of the decoder, before.
        seconds: before.
    """

    def __init__(self, evaluations: int = 0, seconds: float = 0.0) -> None:
        self.evaluations = evaluations
        self.start = time.perf_counter() - seconds

    @property
    def seconds(self) -> float:
        """Those that have passed."""
        return time.perf_counter() - self.start

    def share(self, budget: Budget) -> float:
        """Of a budget."""
        return max(self.evaluations / budget.evaluations, self.seconds / budget.seconds)

    @contextmanager
    def counting(self, model: VAE) -> Iterator[None]:
        """Count what the model is asked for in training. What a decoder puts out goes to the
        family, whatever the model is."""
        handle = model.family.register_forward_hook(self._count)
        try:
            yield
        finally:
            handle.remove()

    def _count(self, family: Any, given: tuple[Tensor, ...], output: Any) -> None:
        del output
        if family.training:
            self.evaluations += given[0].shape[:-1].numel()
