"""Lagging inference: an encoder that keeps up with the decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uncollapse._utils.optimizers import optimizer_state, restore_optimizer
from uncollapse._utils.parameters import Count
from uncollapse.measures.information import mutual_information
from uncollapse.models import VAE, SequenceVAE
from uncollapse.strategies.base import Strategy, TrainingState

LEAST_GAIN = 0.01  # nats by which the mutual information must rise from an epoch to the next


class Lagging(Strategy):
    """Steps of the encoder alone before each step of the decoder alone (He et al. 2019, algorithm
    1).

    The encoder learns on the batch, then on random ones, and stops when the loss over a block of
    steps, by the row or, of sequences, by the symbol, is no longer below that of the block before.
    Then the decoder takes its step. Once the mutual information I(x; z) under q, on rows that
    training does not see, no longer rises from an epoch to the next, all parameters move together.
    Those rows are a tenth of the data, 1,000 at most, or the validation documents.

    Args:
        max_steps: of the encoder for each of the decoder.
        every: steps in a block; the authors take 10 for images and 15 for text.
    """

    name = "lagging"
    needs_validation = True

    def __init__(self, max_steps: Count = 99, every: Count = 10) -> None:
        self.max_steps = max_steps
        self.every = every

    def begin(self, stage: TrainingState, watched: np.ndarray | None) -> None:
        """Start with the encoder ahead."""
        assert watched is not None
        self.watched = watched
        self.is_aggressive = True
        self.information = -math.inf
        self.parameters = list(stage.model.posterior.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, fused=True)

    def before_step(self, stage: TrainingState, batch: Tensor) -> None:
        """Train the encoder until it has caught up."""
        if not self.is_aggressive:
            return
        self.optimizer.param_groups[0]["lr"] = stage.learning_rate * stage.rate_share
        before = math.inf
        for block in range(0, self.max_steps, self.every):
            total, size = 0.0, 0
            for _ in range(min(self.every, self.max_steps - block)):
                if stage.is_over:
                    return
                total += len(batch) * self._step(stage, batch)
                size += _size(stage.model, batch)
                batch = stage.random_batch()
            if total / size >= before:
                break
            before = total / size

    def _step(self, stage: TrainingState, batch: Tensor) -> float:
        loss = stage.loss(batch)
        self.optimizer.zero_grad()
        loss.backward(inputs=self.parameters)  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(loss.detach())

    def after_backward(self, stage: TrainingState) -> None:
        """Leave the encoder as it is while it has its own steps."""
        if self.is_aggressive:
            for parameter in self.parameters:
                parameter.grad = None

    def after_epoch(self, stage: TrainingState) -> None:
        """See whether the information still rises."""
        if not self.is_aggressive:
            return
        found = mutual_information(stage.model, self.watched).value
        self.is_aggressive = found - self.information >= LEAST_GAIN
        self.information = found

    def state(self) -> dict[str, Any]:
        """Whether the encoder is ahead, the information it is judged by, and its own optimizer."""
        own = optimizer_state(self.optimizer)
        return {
            "is_aggressive": self.is_aggressive,
            "information": self.information,
            "optimizer": own,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a state."""
        self.is_aggressive, self.information = state["is_aggressive"], state["information"]
        restore_optimizer(self.optimizer, state["optimizer"])


def _size(model: VAE, batch: Tensor) -> int:
    """Symbols of sequences, whose losses grow with their lengths, and rows of all else."""
    return int((batch >= 0).sum()) if isinstance(model, SequenceVAE) else len(batch)
