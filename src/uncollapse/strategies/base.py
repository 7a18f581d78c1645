"""What every strategy offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from jaxtyping import Float
from torch import Tensor

from uncollapse.models import VAE


class TrainingState(Protocol):
    """A training under way, as a strategy sees it."""

    model: VAE
    learning_rate: float

    @property
    def rate_share(self) -> float:
        """The share of the learning rate in force."""

    @property
    def is_over(self) -> bool:
        """Whether the budget is used up, so that the running step is the last."""

    def loss(self, batch: Float[Tensor, "batch data"]) -> Float[Tensor, ""]:
        """The loss on rows, which is finite: else the training ends."""

    def random_batch(self) -> Float[Tensor, "batch data"]:
        """Rows for a step, at random."""


class Strategy:
    """What is done about the posterior beside the joint step of all parameters. By itself, nothing.

    Attributes:
        name: what specifications call it.
        needs_validation: whether it looks at rows that training does not see.
    """

    name: ClassVar[str]
    needs_validation: ClassVar[bool] = False

    def modify_model(self, model: VAE) -> None:
        """Change a new model, before it has seen any data.

        Raises:
            InputError: if the strategy does not suit the model.
        """

    def begin(self, stage: TrainingState, watched: np.ndarray | None) -> None:
        """Make ready for a training; `watched` are rows that it does not see, as the family
        observes them."""

    def before_step(self, stage: TrainingState, batch: Float[Tensor, "batch data"]) -> None:
        """Act before the step on a batch."""

    def after_backward(self, stage: TrainingState) -> None:
        """Look at the gradients of the step before parameters move."""

    def after_epoch(self, stage: TrainingState) -> None:
        """Act at the end of an epoch."""

    def state(self) -> dict[str, Any]:
        """What a training that is taken up again must know: tensors, and what JSON has, in
        dictionaries."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a state, after `begin`."""


class Joint(Strategy):
    """Encoder and decoder take their steps together (Kingma & Welling 2014)."""

    name = "joint"
