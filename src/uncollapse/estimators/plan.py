"""Training data and the plan of a fit: its seed, objective, strategy and hardware."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from uncollapse._utils.errors import DataError, ParameterError
from uncollapse._utils.random import derived_seed, hold_out_indices
from uncollapse.data.loaders import LoadedRows
from uncollapse.data.stored import RowSource, StoredRows
from uncollapse.estimators.settings import EstimatorSettings
from uncollapse.models import ComposedModel
from uncollapse.objectives import Objective
from uncollapse.strategies import Strategy
from uncollapse.training.batches import Batches, BatchesFromLoader, BatchesInMemory, BatchesOnDisk
from uncollapse.training.best import Best
from uncollapse.training.budget import Budget
from uncollapse.training.constants import Annealing, RateTarget
from uncollapse.training.observers import Callbacks, Observer
from uncollapse.training.resume import Checkpoint, Resume

MAX_UNSEEN_ROWS = 1000


@dataclass(frozen=True)
class TrainingData:
    """Rows to learn from, as float32.

    Attributes:
        rows: all rows, or a random sample of those that stay in `source`, shape (n, n_columns).
        size: number of features or of symbols, which a model is built for.
        digest: digest of all rows.
        source: all rows, where they are not in memory.
        are_sequences: whether rows are documents, padded by negative numbers.
        validation: rows by whose ELBO the best epoch is found; None to keep the last epoch.
        unseen: rows that training does not see, for a strategy that needs some.
    """

    rows: np.ndarray
    size: int
    digest: str
    source: RowSource | None = None
    are_sequences: bool = False
    validation: np.ndarray | None = None
    unseen: np.ndarray | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """Shape and digests of the data, by which a checkpoint recognises them."""
        n_rows = len(self.rows if self.source is None else self.source)
        found: dict[str, Any] = {"shape": (n_rows, *self.rows.shape[1:]), "digest": self.digest}
        if self.are_sequences:
            given = self.validation
            found["validation"] = None if given is None else digest_of(given)
        return found

    def n_batches(self, batch_size: int) -> int:
        """Number of batches in an epoch."""
        if self.source is not None:
            return self.source.n_batches(batch_size)
        return -(-len(self.rows) // batch_size)

    def batches(self, batch_size: int, seed: int) -> Batches:
        """Return the rows in batches; documents share a batch with others of similar length."""
        if isinstance(self.source, StoredRows):
            return BatchesOnDisk(self.source, batch_size, seed, self.rows)
        if isinstance(self.source, LoadedRows):
            return BatchesFromLoader(self.source, seed, self.rows)
        lengths = torch.as_tensor((self.rows >= 0).sum(1)) if self.are_sequences else None
        return BatchesInMemory(torch.as_tensor(self.rows), batch_size, seed, lengths)

    def hold_out(self, n_rows: int, seed: int) -> TrainingData:
        """Return the data with n_rows random rows moved to `unseen`."""
        kept, unseen = hold_out_indices(len(self.rows), n_rows, derived_seed(seed, "held out"))
        return replace(self, rows=self.rows[kept], unseen=self.rows[unseen])


def hold_out_for_strategy(data: TrainingData, strategy: Strategy, seed: int) -> TrainingData:
    """Hold out a tenth of the rows, at most 1,000, for a strategy that needs a validation split.

    Raises:
        DataError: if the rows stay on disk, or are fewer than four.
    """
    if not strategy.needs_validation or data.unseen is not None:
        return data
    if data.source is not None:
        raise DataError(
            f"strategy {strategy.name!r} needs a validation split, which is not supported for data "
            "on disk. Give an array."
        )
    n_held_out = max(2, min(MAX_UNSEEN_ROWS, len(data.rows) // 10))
    if len(data.rows) < n_held_out + 2:
        raise DataError(
            f"strategy {strategy.name!r} holds out some rows and expects at least 4, got "
            f"{len(data.rows)}. Give more data."
        )
    return data.hold_out(n_held_out, seed)


@dataclass(frozen=True)
class Plan:
    """Everything about a fit but its model and settings.

    Attributes:
        data: rows to learn from.
        seed: seed of everything that is random.
        objective: loss to minimise.
        strategy: training of the posterior.
        hardware: arguments of Lightning's Fabric.
        budget: limit of training, which overrides max_epochs.
        callbacks: functions that are called with each epoch.
        checkpoint: folder of the training's state.
        history: gains a row with each epoch.
    """

    data: TrainingData
    seed: int
    objective: Objective
    strategy: Strategy
    hardware: dict[str, Any]
    budget: Budget | None = None
    callbacks: Sequence[Callable[[Any], object]] = ()
    checkpoint: Checkpoint | None = None
    history: list[tuple[float, ...]] = field(default_factory=list)

    def observers(
        self, model: ComposedModel, settings: EstimatorSettings, phase: str
    ) -> list[Observer]:
        """Return the observers that the settings and the caller ask for, for one training phase."""
        decoder: Any = model.decoder
        target = None if settings.target_kl is None else RateTarget(decoder, settings.target_kl)
        observers: list[Observer] = [] if target is None else [target]
        if settings.annealing:
            observers.append(Annealing(decoder))
        if self.data.validation is not None:
            rows = torch.tensor(self.data.validation)  # a copy, in aligned memory
            observers.append(Best(rows, None if target is None else target.has_reached_target))
        if self.checkpoint is not None:
            observers.append(Resume(self.checkpoint, phase))
        return [*observers, Callbacks(self.callbacks)]


def digest_of(rows: np.ndarray) -> str:
    """Return a digest of rows."""
    return hashlib.blake2b(np.ascontiguousarray(rows).data, digest_size=16).hexdigest()


def hardware_arguments(settings: EstimatorSettings, strategy: Strategy) -> dict[str, Any]:
    """Return the arguments of Lightning's Fabric.

    Raises:
        ParameterError: if the processes that were started, the seed or the strategy do not suit
            the number of devices.
    """
    started, devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), settings.devices
    if started > 1 and devices not in ("auto", started):
        raise ParameterError(
            f"{started} processes were started on this machine, got devices={devices}. Give "
            f"devices={started}."
        )
    several = devices != 1 or settings.num_nodes > 1
    if several and not isinstance(settings.random_state, int):
        raise ParameterError(
            "several processes expect one seed, got random_state=None. Give a number, such as "
            "random_state=0."
        )
    if several and strategy.needs_validation:
        raise ParameterError(
            f"strategy {strategy.name!r} trains on one device, got devices={devices}. Give "
            "devices=1."
        )
    is_default = settings.parallel_strategy == "auto"
    return {
        "accelerator": {"cuda": "gpu"}.get(settings.device, settings.device),
        "devices": devices,
        "num_nodes": settings.num_nodes,
        "strategy": "ddp" if several and is_default else settings.parallel_strategy,
        "precision": {"float32": "32-true", "bfloat16": "bf16-mixed"}[settings.precision],
    }
