"""The interface of observers, which act between the steps and epochs of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from uncollapse._utils.errors import ParameterError
from uncollapse.models import LatentModel

if TYPE_CHECKING:
    from uncollapse.training.loop import Training


@dataclass(frozen=True)
class Step:
    """A step that has been taken.

    Attributes:
        loss: mean loss over the batch, in nats per example.
        kl: mean KL over the batch, in nats per example.
        z: draws of z that this process trained on, shape (..., latent_dim).
    """

    loss: Tensor
    kl: Tensor
    z: Tensor


class Observer:
    """An observer of a training. Every method does nothing unless a subclass overrides it."""

    def begin(self, training: Training) -> None:
        """Act before the first step."""

    def before_update(self, training: Training) -> None:
        """Act once the loss of a step is known to be finite, before parameters move."""

    def after_step(self, training: Training, step: Step) -> None:
        """Act after a step."""

    def after_epoch(self, training: Training) -> None:
        """Act at the end of an epoch; `training.history[-1]` is its row."""

    def end(self, training: Training) -> None:
        """Act after the last step."""

    def state(self) -> dict[str, Any]:
        """Return what a resumed training needs, as nested dictionaries of tensors and JSON."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load what `state` returned."""


@dataclass(frozen=True)
class Epoch:
    """An epoch that has ended, as callbacks see it.

    Attributes:
        number: counted from 0 over the whole fit.
        metrics: loss, reconstruction and kl in nats per example, seconds, evaluations of the
            decoder, learning_rate, inverse_lipschitz_1, ..., and validation with validation rows.
        model: the model under training, to be left as it is.
    """

    number: int
    metrics: dict[str, float]
    model: LatentModel


class Callbacks(Observer):
    """Calls functions with each `Epoch`.

    Args:
        functions: called in their order, in every process.
    """

    def __init__(self, functions: Sequence[Callable[[Epoch], object]]) -> None:
        if not all(map(callable, functions)):
            raise ParameterError(
                "callbacks expects functions that take a uc.training.Epoch, got "
                f"{next(f for f in functions if not callable(f))!r}."
            )
        self.functions = functions

    def after_epoch(self, training: Training) -> None:
        """Call the functions."""
        epoch = Epoch(int(training.history[-1][0]), training.metrics(), training.model)
        for function in self.functions:
            function(epoch)
