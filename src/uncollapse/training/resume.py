"""Resuming a training: its state on disk, from which another process continues it bit for bit."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from uncollapse._utils.files import cannot_write, write_bytes
from uncollapse._utils.processes import is_first_process
from uncollapse._utils.run_folders import LOG_FILE
from uncollapse._utils.state_files import StateFolder
from uncollapse.training.best import constants_of, set_constants
from uncollapse.training.observers import Observer, Step

if TYPE_CHECKING:
    from uncollapse.training.loop import Training

WRITING_SHARE = 0.02  # largest share of the time that writing the state may take
COUNTS = ("epochs_done", "batches_done", "steps_done", "rows_seen")


class Checkpoint(StateFolder):
    """A folder with the state of one training, in one phase or several, and its log.

    Args:
        folder: need not exist.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "training")

    def open_log(self, n_lines: int) -> Path:
        """Return the path of the log, cut to `n_lines`, one for each epoch that is done."""
        path = self.folder / LOG_FILE
        if is_first_process():
            lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
            write_bytes(path, b"".join(lines[:n_lines]))
        return path


class Resume(Observer):
    """Restores the state of a training from a checkpoint, and writes it while training runs.

    The state is written whenever that takes less than 2% of the time, after a signal, and at the
    end. The log gains a JSON line with each epoch.

    Args:
        checkpoint: the folder.
        phase: name of the training in the folder.
    """

    def __init__(self, checkpoint: Checkpoint, phase: str = "training") -> None:
        self.checkpoint = checkpoint
        self.phase = phase
        self.is_cut = False  # whether the last state was written within an epoch, after a signal

    def begin(self, training: Training) -> None:
        """Restore the state that the folder holds, if any."""
        saved = self.checkpoint.read(self.phase)
        if saved is not None:
            restore(training, saved)
        if not training.is_over:
            self.log = self.checkpoint.open_log(len(training.history))
        self.written, self.writing_took = time.perf_counter(), 0.0

    def after_step(self, training: Training, step: Step) -> None:
        """Write the state, if it is due, within an epoch."""
        self.is_cut = bool(training.stopped_by)
        self._write_if_due(training)

    def after_epoch(self, training: Training) -> None:
        """Write the epoch's line of the log, and the state if it is due."""
        if is_first_process():
            metrics = {name: float(f"{value:.7g}") for name, value in training.metrics().items()}
            row = {"epoch": int(training.history[-1][0]), **metrics}
            try:
                with self.log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            except OSError as error:
                raise cannot_write(self.log, error) from None
        if not self.is_cut:
            self._write_if_due(training)

    def end(self, training: Training) -> None:
        """Write the last state, unless that of the running epoch has been written."""
        if not self.is_cut and is_first_process():
            self.checkpoint.write(self.phase, state_of(training))

    def _write_if_due(self, training: Training) -> None:
        """Write the state if that takes a small share of the time, or if it would be lost."""
        start = time.perf_counter()
        is_due = WRITING_SHARE * (start - self.written) >= self.writing_took
        if is_first_process() and (is_due or training.stopped_by):
            self.checkpoint.write(self.phase, state_of(training))
            self.written = time.perf_counter()
            self.writing_took = self.written - start


def state_of(training: Training) -> dict[str, Any]:
    """Return all that a training needs to continue, as nested dictionaries of tensors and JSON."""
    is_on_gpu = training.device.type == "cuda"
    generators = {"cuda": torch.cuda.get_rng_state(training.device)} if is_on_gpu else {}
    objective = training.objective
    return {
        "model": training.model.state_dict(),
        "constants": constants_of(training.model),
        "objective": objective.state_dict() if isinstance(objective, nn.Module) else {},
        "optimizer": training.optimizer.state_dict(),
        "strategy": training.strategy.state(),
        "observers": {type(o).__name__: o.state() for o in training.observers},
        "generators": {"cpu": torch.get_rng_state(), **generators},
        "totals": training.totals,
        **{name: getattr(training, name) for name in COUNTS},
        "seconds": training.meter.seconds,
        "evaluations": training.meter.evaluations,
        "history": training.history[len(training.earlier_history) :],
    }


def restore(training: Training, saved: dict[str, Any]) -> None:
    """Load what `state_of` returned into a training that has been set up."""
    training.model.load_state_dict(saved["model"])
    set_constants(training.model, tuple(saved["constants"]))
    if isinstance(training.objective, nn.Module):
        training.objective.load_state_dict(saved["objective"])
    training.optimizer.load_state_dict(saved["optimizer"])
    training.strategy.restore(saved["strategy"])
    for observer in training.observers:
        observer.restore(saved["observers"][type(observer).__name__])
    for name in COUNTS:
        setattr(training, name, saved[name])
    training.totals = saved["totals"].to(training.device)
    training.meter.restart(saved["evaluations"], saved["seconds"])
    training.history += [tuple(row) for row in saved["history"]]
    torch.set_rng_state(saved["generators"]["cpu"])
    if "cuda" in saved["generators"] and training.device.type == "cuda":
        torch.cuda.set_rng_state(saved["generators"]["cuda"], training.device)
