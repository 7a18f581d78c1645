"""What every objective offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from uncollapse.models import VAE, Terms


class Loss(NamedTuple):
    """The number to minimise, in nats per example, and the terms it was made of."""

    value: Float[Tensor, ""]
    terms: Terms


class Objective(nn.Module, ABC):
    """A function (model, x, step) -> `Loss`. Its own parameters, if it has some, are trained with
    those of the model.

    Attributes:
        name: what specifications call it.
    """

    name: ClassVar[str]

    def check(self, model: VAE, x: Float[Tensor, "batch data"]) -> None:
        """Raise `InputError` if the objective does not suit the model; x are some rows, as the
        family observes them."""
        del model, x

    def prepare(self, model: VAE, x: Float[Tensor, "batch data"], n_steps: int) -> None:
        """Make ready for a training of the model, of so many steps in all; x are some rows, as the
        family observes them."""
        del model, x, n_steps

    @abstractmethod
    def forward(self, model: VAE, x: Float[Tensor, "batch data"], step: int) -> Loss:
        """The loss on a batch, at this step of the training."""
