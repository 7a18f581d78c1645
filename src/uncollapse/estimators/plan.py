"""The plan of a fit: its data, seed, objective, strategy and hardware; and its training."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.utils import check_random_state

from uncollapse._utils.errors import DataError, ParameterError
from uncollapse._utils.random import derived_seed, hold_out_indices, seeded
from uncollapse.data.loaders import LoadedRows
from uncollapse.data.stored import RowSource, StoredRows
from uncollapse.estimators.building import check_memory, resolve_device
from uncollapse.estimators.settings import RUNTIME_ARGUMENTS, EstimatorSettings, to_json
from uncollapse.models import ComposedModel, to_device
from uncollapse.objectives import Objective, get_objective
from uncollapse.strategies import Strategy, get_strategy
from uncollapse.training import loop
from uncollapse.training.batches import Batches, BatchesFromLoader, BatchesInMemory, BatchesOnDisk
from uncollapse.training.best import Best
from uncollapse.training.budget import Budget, check_budget
from uncollapse.training.constants import Annealing, RateTarget
from uncollapse.training.observers import Callbacks, Observer
from uncollapse.training.resume import Checkpoint, Resume

if TYPE_CHECKING:
    from uncollapse.estimators.base import Estimator

MAX_HELD_OUT_ROWS = 1000


@dataclass(frozen=True)
class TrainingData:
    """Rows to learn from, as float32.

    Attributes:
        rows: all rows, or a random sample of those that stay in `source`, shape (n, n_columns).
        size: number of features or of symbols, which a model is built for.
        digest: digest of all rows.
        source: all rows, where they are not in memory.
        are_sequences: whether rows are documents, padded by negative numbers.
        validation: validation split, whose ELBO selects the best epoch; None to keep the last.
        held_out: validation split for a strategy that needs one.
    """

    rows: np.ndarray
    size: int
    digest: str
    source: RowSource | None = None
    are_sequences: bool = False
    validation: np.ndarray | None = None
    held_out: np.ndarray | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """Shape and digests of the data, by which a checkpoint recognizes them."""
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
        """Return the data with n_rows random rows moved to `held_out`."""
        kept, held_out = hold_out_indices(len(self.rows), n_rows, derived_seed(seed, "held out"))
        return replace(self, rows=self.rows[kept], held_out=self.rows[held_out])


def hold_out_for_strategy(data: TrainingData, strategy: Strategy, seed: int) -> TrainingData:
    """Hold out a tenth of the rows, at most 1,000, for a strategy that needs a validation split.

    Raises:
        DataError: if the rows stay on disk, or are fewer than four.
    """
    if not strategy.needs_validation or data.held_out is not None:
        return data
    if data.source is not None:
        raise DataError(
            f"strategy {strategy.name!r} needs a validation split, which is not supported for data "
            "on disk. Give an array."
        )
    n_held_out = max(2, min(MAX_HELD_OUT_ROWS, len(data.rows) // 10))
    if len(data.rows) < n_held_out + 2:
        raise DataError(
            f"strategy {strategy.name!r} holds out some rows and expects at least 4, got "
            f"{len(data.rows)}. Give more data."
        )
    return data.hold_out(n_held_out, seed)


@dataclass(frozen=True)
class Plan:
    """Everything about a fit but its model.

    Attributes:
        settings: validated settings of the estimator.
        data: rows to learn from.
        seed: seed of everything that is random.
        objective: loss to minimize.
        strategy: training of the posterior.
        hardware: arguments of Lightning's Fabric.
        budget: limit of training, which overrides max_epochs.
        callbacks: functions that are called with each epoch.
        checkpoint: folder of the training's state.
        history: gains a row with each epoch.
    """

    settings: EstimatorSettings
    data: TrainingData
    seed: int
    objective: Objective
    strategy: Strategy
    hardware: dict[str, Any]
    budget: Budget | None = None
    callbacks: Sequence[Callable[[Any], object]] = ()
    checkpoint: Checkpoint | None = None
    history: list[tuple[float, ...]] = field(default_factory=list)

    def train(
        self, model: ComposedModel, epochs: range, seed: int, phase: str = "training"
    ) -> None:
        """Train a model in place for some of the epochs, one phase of the fit."""
        settings, data = self.settings, self.data
        batches = data.batches(settings.batch_size, seed)
        if data.held_out is not None:
            self.strategy.validation = model.observe(data.held_out[:MAX_HELD_OUT_ROWS])
        share = len(epochs) / settings.max_epochs
        loop_settings = loop.LoopSettings(
            max_epochs=len(epochs),
            learning_rate=settings.learning_rate,
            seed=seed,
            budget=None if self.budget is None else self.budget.part(share),
            step_offset=epochs.start * batches.n_batches,
            hardware=self.hardware,
            verbose=settings.verbose,
        )
        observers = self._observers(model, phase)
        parts = model, self.objective, batches, loop_settings, self.strategy
        loop.train(loop.Training(*parts, observers, self.history))

    def _observers(self, model: ComposedModel, phase: str) -> list[Observer]:
        """Return the observers that the settings and the caller ask for, for one phase."""
        settings = self.settings
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


def prepare(
    estimator: Estimator[Any, Any],
    settings: EstimatorSettings,
    data: TrainingData,
    budget: Budget | None,
    callbacks: Sequence[Callable[[Any], object]],
    checkpoint: str | Path | None,
) -> tuple[Any, Plan]:
    """Build an estimator's model, initialize it from the data, and plan its training.

    Raises:
        InputError: if settings, data, budget and checkpoint do not suit each other.
    """
    check_budget(budget)
    folder = None if checkpoint is None else Checkpoint(Path(checkpoint))
    seed = _choose_seed(estimator, settings, data, budget, folder)
    settings.device = resolve_device(settings.device)
    strategy, objective = get_strategy(settings.strategy), get_objective(settings.objective)
    hardware = hardware_arguments(settings, strategy)
    data = estimator._hold_out(data, seed)
    check_memory(estimator.build, settings, data.size)
    with seeded(derived_seed(seed, "initialisation")):
        model = estimator.build(settings, data.size)
    estimator._initialize(model, settings, data)
    data = hold_out_for_strategy(data, strategy, seed)
    n_steps = settings.max_epochs * data.n_batches(settings.batch_size)
    with seeded(derived_seed(seed, "objective")):
        some = model.observe_anew(to_device(model, data.rows[:2]))
        objective.check(model, some)
        objective.prepare(model, some, n_steps)
    return model, Plan(
        settings, data, seed, objective, strategy, hardware, budget, tuple(callbacks), folder
    )


def _choose_seed(
    estimator: Estimator[Any, Any],
    settings: EstimatorSettings,
    data: TrainingData,
    budget: Budget | None,
    checkpoint: Checkpoint | None,
) -> int:
    """Return the given seed, a random one, or that of the training in the checkpoint."""
    given = settings.random_state
    is_given = isinstance(given, int)
    seed = int(given if isinstance(given, int) else check_random_state(given).randint(2**31))
    if checkpoint is None:
        return seed
    told = to_json(settings)
    identity = {
        "estimator": type(estimator).__name__,
        "parameters": {name: told[name] for name in told if name not in RUNTIME_ARGUMENTS},
        "data": data.identity,
        "seed": seed,
        "budget": None if budget is None else vars(budget),
    }
    return int(checkpoint.agree(identity, any_seed=not is_given)["seed"])


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
            "training on several devices needs an integer as random_state. Use, for example, "
            "random_state=0."
        )
    if several and strategy.needs_validation:
        raise ParameterError(
            f"strategy {strategy.name!r} trains on one device. Set num_nodes=1 and devices=1."
        )
    is_default = settings.parallel_strategy == "auto"
    return {
        "accelerator": {"cuda": "gpu"}.get(settings.device, settings.device),
        "devices": devices,
        "num_nodes": settings.num_nodes,
        "strategy": "ddp" if several and is_default else settings.parallel_strategy,
        "precision": {"float32": "32-true", "bfloat16": "bf16-mixed"}[settings.precision],
    }
