"""The interface of objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from uncollapse.models import Terms


class Loss(NamedTuple):
    """A loss to minimise, in nats per example, and the terms that it is made of."""

    value: Float[Tensor, ""]
    terms: Terms


class Objective(nn.Module, ABC):
    """A function (model, x, step) -> `Loss`. Parameters of its own are trained with the model's.

    Attributes:
        name: the name in specifications.
    """

    name: ClassVar[str]

    def check(self, model: Any, x: Float[Tensor, "batch data"]) -> None:
        """Raise `InputError` if the objective does not suit the model; x are a few rows."""
        del model, x

    def prepare(self, model: Any, x: Float[Tensor, "batch data"], n_steps: int) -> None:
        """Prepare for a training of `n_steps` in all; x are a few rows."""
        del model, x, n_steps

    @abstractmethod
    def forward(self, model: Any, x: Float[Tensor, "batch data"], step: int) -> Loss:
        """Compute the loss on a batch at a step of the training."""
