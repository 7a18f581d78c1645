"""The interface of strategies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from jaxtyping import Float
from torch import Tensor

from uncollapse.models import LatentModel


class TrainingState(Protocol):
    """The part of a running training that strategies see."""

    model: LatentModel

    @property
    def learning_rate(self) -> float:
        """Current learning rate."""

    @property
    def is_spent(self) -> bool:
        """Whether the budget is used up, so that the running step is the last."""

    def loss(self, batch: Float[Tensor, "batch data"]) -> Float[Tensor, ""]:
        """Compute the loss on rows; training ends if it is not finite."""

    def random_batch(self) -> Float[Tensor, "batch data"]:
        """Draw rows for a step."""


class Strategy:
    """Training of the posterior in addition to the joint step; the base class adds nothing.

    Attributes:
        name: the name in specifications.
        needs_validation: whether it needs a validation split.
        validation: that split, as the model observes it; set before training starts.
    """

    name: ClassVar[str]
    needs_validation: ClassVar[bool] = False
    validation: np.ndarray

    def modify_model(self, model: Any) -> None:
        """Change a new model, before it has seen data.

        Raises:
            InputError: if the strategy does not suit the model.
        """

    def begin(self, training: TrainingState) -> None:
        """Prepare for a training."""

    def before_step(self, training: TrainingState, batch: Float[Tensor, "batch data"]) -> None:
        """Act before the step on a batch."""

    def after_backward(self, training: TrainingState) -> None:
        """Change the gradients of a step before parameters move."""

    def after_epoch(self, training: TrainingState) -> None:
        """Act at the end of an epoch."""

    def state(self) -> dict[str, Any]:
        """Return all that a resumed training needs, as nested dictionaries of tensors and JSON."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load what `state` returned, after `begin`."""


class Joint(Strategy):
    """Train encoder and decoder together (Kingma & Welling 2014)."""

    name = "joint"
