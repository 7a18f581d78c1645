"""The states of a model that training goes back to: the last good one and the best one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from uncollapse._utils.random import derived_seed, seeded
from uncollapse.models import LatentModel, evaluating
from uncollapse.objectives import negative_elbo
from uncollapse.training.observers import Observer

if TYPE_CHECKING:
    from uncollapse.training.loop import Training


def constants_of(model: LatentModel) -> tuple[float, ...]:
    """Return the inverse Lipschitz constants of a model's decoder; none where it has none."""
    constants: tuple[float, ...] = getattr(getattr(model, "decoder", None), "constants", ())
    return constants


def set_constants(model: LatentModel, constants: tuple[float, ...]) -> None:
    """Set the inverse Lipschitz constants of a model's decoder, if there are any."""
    if constants:
        decoder: Any = model.decoder
        decoder.set_constants(constants)


class Snapshot(Observer):
    """A copy of a model: its state dict, and the constants of its decoder.

    Attributes:
        tensors: the state dict; empty before the first copy.
        constants: of the decoder, which no state dict holds.
    """

    saved: ClassVar[tuple[str, ...]] = ("tensors", "constants")

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.constants: tuple[float, ...] = ()

    def take(self, model: LatentModel) -> None:
        """Copy the model's state."""
        self.tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.constants = constants_of(model)

    def put_back(self, model: LatentModel) -> None:
        """Load the copy into the model, if there is one."""
        if self.tensors:
            model.load_state_dict(self.tensors)
            set_constants(model, self.constants)

    def state(self) -> dict[str, Any]:
        """Return the copy, and what belongs to it."""
        return {name: getattr(self, name) for name in self.saved}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load what `state` returned."""
        for name in self.saved:
            setattr(self, name, state[name])


class LastGood(Snapshot):
    """Keeps the model as it was at the start of the last epoch that began with a finite loss.

    Attributes:
        n_epochs: whole epochs of training in that state.
    """

    saved = (*Snapshot.saved, "n_epochs")
    n_epochs = 0

    def before_update(self, training: Training) -> None:
        """Copy the model in the first step of an epoch."""
        if training.rows_seen == 0:
            self.n_epochs = training.epochs_done
            self.take(training.model)


class Best(Snapshot):
    """Finds the epoch with the best ELBO on validation rows, and ends with its model.

    Args:
        rows: validation rows, shape (n, data_dim).
        may_be_best: returns whether an epoch with a mean KL, in nats, may be the best; any may if
            not given.
    """

    saved = (*Snapshot.saved, "loss", "n_epochs")
    n_epochs = 0

    def __init__(self, rows: Tensor, may_be_best: Callable[[float], bool] | None = None) -> None:
        super().__init__()
        self.rows = rows
        self.may_be_best = may_be_best
        self.loss = math.inf

    def after_epoch(self, training: Training) -> None:
        """Add the negative ELBO on the rows to the history; copy the model if it is the best."""
        row = training.history[-1]
        loss, kl = self._evaluate(training), row[3]
        training.history[-1] = (*row, loss)
        if loss < self.loss and (self.may_be_best is None or self.may_be_best(kl)):
            self.loss, self.n_epochs = loss, training.epochs_done
            self.take(training.model)

    def end(self, training: Training) -> None:
        """Load the best model."""
        self.put_back(training.model)

    @torch.no_grad()
    def _evaluate(self, training: Training) -> float:
        """Return the negative ELBO on the rows, at the same draws each time."""
        model = training.model
        batches = torch.split(self.rows, training.batches.batch_size)
        with evaluating(model), seeded(derived_seed(training.settings.seed, "validation")):
            observed = (model.observe_anew(batch.to(training.device)) for batch in batches)
            losses = [negative_elbo(model(batch)).value * len(batch) for batch in observed]
        return float(torch.stack(losses).sum()) / len(self.rows)
