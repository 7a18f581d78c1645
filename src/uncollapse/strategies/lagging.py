"""Lagging inference: an encoder that keeps up with the decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from uncollapse._utils.parameters import Count
from uncollapse.measures.information import information_of_rows
from uncollapse.measures.posteriors import infer
from uncollapse.models import LatentModel, SequenceModel
from uncollapse.strategies.base import Strategy, TrainingState

LEAST_GAIN = 0.01  # nats by which the mutual information must rise from one epoch to the next


class Lagging(Strategy):
    """Train the encoder alone before each step of the decoder alone (He et al. 2019, alg. 1).

    The encoder learns on the batch, then on random ones, until the loss over a block of steps, by
    row or by symbol, is no longer below that of the block before. Then the decoder takes its step.
    Once the mutual information I(x; z) under q, on validation rows, no longer rises from one epoch
    to the next, all parameters move together. The validation rows are a tenth of the data, 1,000 at
    most, or the validation documents.

    Args:
        max_steps: steps of the encoder for each step of the decoder.
        every: steps in a block; the authors take 10 for images and 15 for text.
    """

    name = "lagging"
    needs_validation = True

    def __init__(self, max_steps: Count = 99, every: Count = 10) -> None:
        self.max_steps = max_steps
        self.every = every

    def begin(self, training: TrainingState) -> None:
        self.is_aggressive = True
        self.information = -math.inf
        posterior: nn.Module = training.model.posterior  # type: ignore[assignment]
        self.parameters = list(posterior.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, fused=True)

    def before_step(self, training: TrainingState, batch: Tensor) -> None:
        if not self.is_aggressive:
            return
        self.optimizer.param_groups[0]["lr"] = training.learning_rate
        before = math.inf
        for block in range(0, self.max_steps, self.every):
            total, size = 0.0, 0
            for _ in range(min(self.every, self.max_steps - block)):
                if training.is_spent:
                    return
                total += len(batch) * self._step(training, batch)
                size += _size(training.model, batch)
                batch = training.random_batch()
            if total / size >= before:
                break
            before = total / size

    def _step(self, training: TrainingState, batch: Tensor) -> float:
        loss = training.loss(batch)
        self.optimizer.zero_grad()
        loss.backward(inputs=self.parameters)
        self.optimizer.step()
        return float(loss.detach())

    def after_backward(self, training: TrainingState) -> None:
        """Keep the joint step from moving the encoder while it has its own steps."""
        if self.is_aggressive:
            for parameter in self.parameters:
                parameter.grad = None

    def after_epoch(self, training: TrainingState) -> None:
        """Stop the encoder's own steps once the information no longer rises."""
        if not self.is_aggressive:
            return
        model, rows = training.model, self.validation
        posteriors = infer(model, rows)
        found = information_of_rows(model, rows, posteriors.means, posteriors.variances).value
        self.is_aggressive = found - self.information >= LEAST_GAIN
        self.information = found

    def state(self) -> dict[str, Any]:
        return {
            "is_aggressive": self.is_aggressive,
            "information": self.information,
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.is_aggressive, self.information = state["is_aggressive"], state["information"]
        self.optimizer.load_state_dict(state["optimizer"])


def _size(model: LatentModel, batch: Tensor) -> int:
    """Return the number of symbols of sequences, whose losses grow with length, else of rows."""
    return int((batch >= 0).sum()) if isinstance(model, SequenceModel) else len(batch)
