"""Doing trials, each once: one after the other in this process, or side by side on Ray."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from filelock import FileLock, Timeout

from uncollapse._utils.errors import (
    DEBUG_VARIABLE,
    FileError,
    InputError,
    NonFiniteLossError,
    one_line,
)
from uncollapse._utils.files import check_writable
from uncollapse.experiments.results import ResultsFile
from uncollapse.experiments.stopping import Rule
from uncollapse.experiments.trial import Trial, Watch

ONE_PROCESS, OWN_INSTANCE = "none", "local"  # in place of the address of a cluster
Due = Sequence[tuple[Trial, int]]
Tell = Callable[[str], None]


class Place:
    """Where what trials give is put.

    Attributes:
        file: of their rows.
        models: a folder with a folder for all that is kept of a trial, by its key; absolute, as
            Ray's processes begin elsewhere.
        states: a folder with a folder for each trial that is not done, by its key; absolute as
            well.
    """

    def __init__(self, file: ResultsFile) -> None:
        self.file = file
        path = file.path.absolute()
        self.models = path.parent / "models"
        self.states = path.with_suffix(".unfinished")

    def settle(self, row: Mapping[str, Any]) -> None:
        """Write down the row of a trial, which then needs no state any more."""
        self.file.append(row)
        self._forget(row["key"])

    def clear(self, but: Collection[str]) -> None:
        """Remove the states of what is done, which a kill may have left, but for those of some
        keys."""
        for key in {row["key"] for row in self.file.rows()} - set(but):
            self._forget(key)
        if self.states.is_dir() and not any(self.states.iterdir()):
            self.states.rmdir()

    def _forget(self, key: str) -> None:
        shutil.rmtree(
            self.states / key, ignore_errors=True
        )  # which `clear` does again, should it be cut short

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Within the block, nobody else does trials here.

        Raises:
            InputError: if somebody does, or the place cannot be written to.
        """
        check_writable(self.file.path, overwrite=True)
        try:
            with FileLock(self.file.path.with_name(f".{self.file.path.name}.lock"), timeout=0):
                yield
        except Timeout:
            raise FileError(
                f"{self.file.path} is being written by another process: wait for it to end, or "
                "choose another --output."
            ) from None


def do_trials(
    due: Due,
    place: Place,
    ray: str = ONE_PROCESS,
    verbose: bool = True,
    tell: Tell = print,
    stop_by: Rule | None = None,
) -> list[str]:
    """Do trials, and put down the row of each as soon as it is done.

    Args:
        due: trials and their seeds.
        place: for the rows, what is kept, and what is needed to go on after an interruption, which
            is taken up where it is there.
        ray: "none" for this process; "local" for all cores and GPUs of this machine, or the address
            of a cluster of Ray's whose machines see the same folders.
        verbose: show progress bars where there is a terminal.
        tell: receives a line about each step.
        stop_by: on Ray, trials that do not look promising by this rule are stopped early (ASHA).

    Returns:
        A sentence about each trial that something was in the way of. They are due again.

    Raises:
        InputError: if the place cannot be written to, or somebody else does trials there, or Ray is
            asked for and is not there.
    """
    keys = [trial.key(seed) for trial, seed in due]
    with place.occupied():
        place.clear(but=keys)
        if not due:
            failures = []
        elif ray == ONE_PROCESS:
            failures = _one_by_one(due, place, verbose, tell)
        else:
            failures = on_ray().do_grid(due, place, ray, tell, stop_by)
        place.clear(but=())
    return failures


def has_ray() -> bool:
    """Whether Ray is installed."""
    return find_spec("ray") is not None


def on_ray() -> Any:
    """The module that knows Ray.

    Raises:
        InputError: if Ray, or Tune, is not installed.
    """
    try:
        return import_module("uncollapse.experiments.on_ray")
    except ImportError:
        raise InputError(
            "doing trials side by side needs Ray Tune: pip install 'uncollapse[sweep]', or give "
            "ray='none' (--ray none)."
        ) from None


def _one_by_one(due: Due, place: Place, verbose: bool, tell: Tell) -> list[str]:
    failures = []
    for number, (trial, seed) in enumerate(due, 1):
        tell(f"trial {number} of {len(due)}: {trial.describe(seed)}")
        found = attempt(trial, seed, place, verbose)
        if isinstance(found, str):
            failures.append(f"{trial.describe(seed)}: {found}")
            tell(f"note: {found}")
            continue
        place.settle(found)
        if "error" in found:
            tell(f"note: {found['error']}")
    return failures


def attempt(
    trial: Trial, seed: int, place: Place, verbose: bool = False, watch: Watch | None = None
) -> dict[str, Any] | str:
    """Do one trial, and keep what it makes.

    Returns:
        Its row, which is still to be put down; or a sentence on what was in the way of it, whatever
        that was, as other trials may do better.
    """
    key = trial.key(seed)
    try:
        kept, row = trial.execute(seed, place.states / key, verbose, watch)
        if trial.keeps(seed):
            kept.save(place.models / key, overwrite=True)
    except NonFiniteLossError as error:  # a result as well, which another try would only repeat
        return trial.failure(seed, error)
    except InputError as error:
        return str(error)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        return f"unexpected {type(error).__name__}: {one_line(error)} (set {DEBUG_VARIABLE}=1 to see where)"
    return row
