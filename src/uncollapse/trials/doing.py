"""Doing trials, each once: one after the other in this process, or side by side on Ray."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from uncollapse.errors import InputError, NonFiniteLossError
from uncollapse.files import check_writable
from uncollapse.trials.results import ResultsFile
from uncollapse.trials.trial import Rank, Trial, Watch

ONE_PROCESS, OWN_INSTANCE = "none", "local"  # in place of the address of a cluster
Due = Sequence[tuple[Trial, int]]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """Where what trials give is put.

    Attributes:
        file: of their rows.
    """

    file: ResultsFile

    @property
    def models(self) -> Path:
        """A folder with a folder for all that is kept of a trial, by its key."""
        return self.file.path.parent / "models"

    @property
    def states(self) -> Path:
        """A folder with a folder for each trial that is not done, by its key."""
        return self.file.path.with_suffix(".unfinished")

    def settle(self, row: Mapping[str, Any]) -> None:
        """Write down the row of a trial, which then needs no state any more."""
        self.file.append(dict(row))
        shutil.rmtree(self.states / row["key"], ignore_errors=True)

    def clear(self) -> None:
        """Remove the states of what is done, which a kill may have left."""
        for row in self.file.rows():
            shutil.rmtree(self.states / row["key"], ignore_errors=True)
        if self.states.is_dir() and not any(self.states.iterdir()):
            self.states.rmdir()


def do_trials(
    due: Due, place: Place, ray: str = ONE_PROCESS, verbose: bool = True, tell: Tell = print, stop_by: Rank | None = None
) -> list[str]:
    """Do trials, and put down the row of each as soon as it is done.

    Args:
        due: trials and their seeds.
        place: for the rows, what is kept, and what is needed to go on after an interruption, which is taken up where it is there.
        ray: "none" for this process; "local" for all cores and GPUs of this machine, or the address of a cluster of Ray's whose
            machines see the same folders.
        verbose: show progress bars where there is a terminal.
        tell: receives a line about each step.
        stop_by: what a trial is worth, from its negative log-likelihood and its KL in nats, the lower the better: on Ray, those
            that do not look promising are stopped early (ASHA).

    Returns:
        A sentence about each trial that something was in the way of. They are due again.

    Raises:
        InputError: if the place cannot be written to, nothing came of any of them, or Ray is asked for and is not there.
    """
    check_writable(place.file.path, overwrite=True)
    place.clear()
    if ray == ONE_PROCESS:
        failures = _one_by_one(due, place, verbose, tell)
    elif due:
        failures = on_ray().do_grid(due, place, ray, tell, stop_by)
    else:
        failures = []
    place.clear()
    if failures and len(failures) == len(due):
        raise InputError(failures[0])
    return failures


def has_ray() -> bool:
    """Whether Ray is installed."""
    return find_spec("ray") is not None


def on_ray() -> Any:
    """The module that knows Ray.

    Raises:
        InputError: if Ray is not installed.
    """
    try:
        return import_module("uncollapse.trials.on_ray")
    except ImportError:
        raise InputError("doing trials side by side needs Ray: pip install 'uncollapse[sweep]'.") from None


def _one_by_one(due: Due, place: Place, verbose: bool, tell: Tell) -> list[str]:
    failures = []
    for number, (trial, seed) in enumerate(due, 1):
        tell(f"trial {number} of {len(due)}: {trial.describe(seed)}")
        try:
            row = do_trial(trial, seed, place, verbose)
        except InputError as error:
            failures.append(f"{trial.describe(seed)}: {error}")
            tell(f"note: {error}")
            continue
        place.settle(row)
        if "error" in row:
            tell(f"note: {row['error']}")
    return failures


def do_trial(trial: Trial, seed: int, place: Place, verbose: bool = False, watch: Watch | None = None) -> dict[str, Any]:
    """Do one trial, and keep what it makes.

    Returns:
        Its row, which is still to be put down.
    """
    key = trial.key(seed)
    try:
        kept, row = trial.execute(seed, place.states / key, verbose, watch)
    except NonFiniteLossError as error:  # a result as well, which another try would only repeat
        return trial.failure(seed, error)
    if trial.keeps(seed):
        kept.save(place.models / key, overwrite=True)
    return row
