"""Runs on disk: weights as safetensors, settings as JSON, history as CSV. Nothing in them can be
executed."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pandas as pd
import torch
from pydantic import BaseModel, Field, StrictInt, StrictStr, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from uncollapse._utils.errors import FileError, InputError, one_line
from uncollapse._utils.files import (
    check_readable,
    check_writable,
    new_folder,
    read_table,
    remove_folder,
    write_bytes,
)
from uncollapse._utils.processes import is_first_process
from uncollapse._utils.state_files import STATE_ENDING
from uncollapse._version import __version__

FORMAT = 4  # rises with the meaning of what is written
WEIGHTS_FILE, SETTINGS_FILE, HISTORY_FILE = "model.safetensors", "model.json", "history.csv"
PHASES = ("warm-up", "training")
KINDS = {torch.float32: "F32", torch.bool: "BOOL"}  # as safetensors call them
OWN_FILES = frozenset((WEIGHTS_FILE, SETTINGS_FILE, HISTORY_FILE))
LOG_FILE = "log.jsonl"
UNFINISHED_ENDING = ".unfinished"
# What a folder may hold to be taken for a run and nothing more.
RUN_FILES = OWN_FILES | {
    LOG_FILE,
    "report.html",
    "report.json",
    "certificate.json",
}


def _state_files(work: str, parts: Sequence[str], *others: str) -> frozenset[str]:
    """What the folder of unfinished work may hold, files that a kill has cut short among it."""
    names = (f"{work}.json", *(f"{part}{STATE_ENDING}" for part in parts), *others)
    return frozenset((*names, *(f"{name}.new" for name in names)))


TRAINING_FILES = _state_files("training", PHASES, LOG_FILE)


class SavedVocabulary(BaseModel):
    """The known symbols of sequences, in the order of their numbers."""

    level: Literal["word", "character", "token"]
    known: list[StrictStr] | list[StrictInt]


class Settings(BaseModel):
    """All of a fitted estimator but its weights and its history."""

    format: Annotated[int, Field(ge=1)] = FORMAT
    version: str = __version__
    estimator: str
    parameters: dict[str, Any]
    n_features: Annotated[int, Field(ge=1, lt=2**31)]
    feature_names: list[str] | None
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    vocabulary: SavedVocabulary | None = None
    constants: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None = (
        None  # the decoder's, as training left them
    )


def write_run(
    folder: Path,
    settings: Settings,
    weights: Mapping[str, Tensor],
    history: pd.DataFrame,
    overwrite: bool = False,
) -> None:
    """Write a run, whole or not at all. Of processes that train one model together, the first one
    does.

    Raises:
        InputError: if there is something that may not be replaced, or the folder cannot be written.
    """
    if not is_first_process():
        return
    with new_folder(folder, overwrite, RUN_FILES) as scratch:
        try:
            save_file(
                {name: value.contiguous() for name, value in weights.items()},
                scratch / WEIGHTS_FILE,
            )
        except SafetensorError as error:
            raise FileError(
                f"cannot write {folder} ({error}): make room, or choose another place."
            ) from None
        (scratch / SETTINGS_FILE).write_text(
            settings.model_dump_json(indent=2) + "\n", encoding="utf-8"
        )
        history.to_csv(scratch / HISTORY_FILE, index=False)


class UnfinishedWork(ABC):
    """The folder beside a result that holds the state of the work on it.

    Args:
        result: where the result will be.

    Attributes:
        folder: where the work is.
    """

    work: ClassVar[str]
    files: ClassVar[frozenset[str]]  # that the folder may hold

    def __init__(self, result: Path) -> None:
        self.folder = result.with_name(f"{result.name}{UNFINISHED_ENDING}")

    def begin(self, resume: bool, overwrite: bool) -> bool:
        """Make ready for the work, or for going on with it, which may replace what it has left.

        Returns:
            Whether there is something to do: not so where the work is complete that was to be gone
                on with.

        Raises:
            InputError: if there is something that may not be replaced, or the place cannot be
                written to.
        """
        check_writable(self.folder, True, self.files)
        goes_on = self.folder.exists() and resume
        if resume and not goes_on and self._is_complete():
            return False
        self._check_room(overwrite or goes_on)
        if goes_on or not self.folder.exists():
            return True
        if not overwrite:
            raise FileError(
                f"{self.folder} holds a {self.work} that was interrupted: go on with it "
                "(--resume), or drop it (--overwrite)."
            )
        remove_folder(self.folder)
        return True

    @abstractmethod
    def _is_complete(self) -> bool:
        """Whether the result is there."""

    @abstractmethod
    def _check_room(self, overwrite: bool) -> None:
        """Raise `InputError` if the result cannot be written."""


class Unfinished(UnfinishedWork):
    """The folder beside a run that holds the state of its training.

    Attributes:
        run: where the run will be.
    """

    work, files = "training", TRAINING_FILES

    def __init__(self, run: Path) -> None:
        super().__init__(run)
        self.run = run

    def _is_complete(self) -> bool:
        return (self.run / SETTINGS_FILE).is_file()

    def _check_room(self, overwrite: bool) -> None:
        check_writable(self.run, overwrite, RUN_FILES)

    def end(self, goes_on: bool) -> None:
        """Put the log into the run, and away with the rest, unless the training goes on another
        day."""
        if not is_first_process():
            return
        log = self.folder / LOG_FILE
        if log.is_file():
            write_bytes(self.run / LOG_FILE, log.read_bytes())
        if not goes_on:
            remove_folder(self.folder)


def read_settings(folder: Path) -> Settings:
    """The settings of a run.

    Raises:
        InputError: if the folder holds no run, a damaged one, or one of a newer version.
    """
    path = folder / SETTINGS_FILE
    if not os.path.isfile(path):
        raise FileError(
            f"{folder} holds no saved model: expected a folder that `save` or `uncollapse fit` "
            f"wrote, with {path.name}."
        )
    for name in sorted(OWN_FILES):
        _check_file(folder, name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (
            isinstance(content, dict)
            and isinstance(content.get("format"), int)
            and content["format"] > FORMAT
        ):
            raise FileError(
                f"{folder} was saved by uncollapse {content.get('version')} in format "
                f"{content['format']}, and this is "
                f"{__version__}, which reads format {FORMAT}: pip install --upgrade uncollapse."
            )
        if (
            isinstance(content, dict)
            and isinstance(content.get("format"), int)
            and 1 <= content["format"] < FORMAT
        ):
            raise FileError(
                f"{folder} was saved in format {content['format']}, by a development version, and "
                "cannot be read any more: fit it "
                "again."
            )
        settings = Settings.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise damaged(
            folder, f"{path.name}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from None
    except InputError:
        raise
    except (
        ValueError,
        OSError,
        RecursionError,
    ) as error:  # of JSON, UTF-8, numbers with thousands of digits
        raise damaged(folder, f"{path.name}: {error}") from None
    if settings.feature_names is not None and len(settings.feature_names) != settings.n_features:
        raise damaged(
            folder,
            f"{path.name}: {len(settings.feature_names)} names for {settings.n_features} features",
        )
    return settings


def _check_file(folder: Path, name: str) -> None:
    try:
        check_readable(folder / name)
    except InputError as error:
        raise damaged(folder, str(error)) from None


def read_weights(folder: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a run, once the file's header has announced what is expected.

    Args:
        folder: of the run.
        expected: tensors of the expected shapes; their values do not matter.

    Raises:
        InputError: if the file is missing or damaged, or holds other tensors or values that are not
            finite.
    """
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {
                name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()
            }
        if found != {
            name: (tuple(value.shape), KINDS[value.dtype]) for name, value in expected.items()
        }:
            raise damaged(
                folder,
                f"the tensors of {WEIGHTS_FILE} are not those that {SETTINGS_FILE} describes",
            )
        weights = load_file(folder / WEIGHTS_FILE)
    except (SafetensorError, OSError) as error:
        raise damaged(folder, f"{WEIGHTS_FILE}: {error}") from None
    if not all(value.isfinite().all() for value in weights.values()):
        raise damaged(folder, f"{WEIGHTS_FILE} holds values that are not finite")
    return weights


def read_history(folder: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """The history of a run, with these columns.

    Raises:
        InputError: if the file is missing or damaged.
    """
    try:
        history = read_table(folder / HISTORY_FILE)
    except (ValueError, OSError) as error:
        raise damaged(folder, f"{HISTORY_FILE}: {error}") from None
    if tuple(history.columns) != columns or not all(
        pd.api.types.is_numeric_dtype(kind) for kind in history.dtypes if len(history)
    ):
        raise damaged(
            folder, f"{HISTORY_FILE}: expected numbers in the columns {', '.join(columns)}"
        )
    return history


def damaged(folder: Path, reason: str) -> InputError:
    """The error for a run that cannot be read."""
    return FileError(f"{folder} holds a damaged model ({one_line(reason)}): fit and save it again.")
