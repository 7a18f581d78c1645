"""Saved runs: weights as safetensors, settings as JSON, history as CSV.

Loading them executes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

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

FORMAT = 4  # increases with each change of what is written
WEIGHTS_FILE, SETTINGS_FILE, HISTORY_FILE = "model.safetensors", "model.json", "history.csv"
PHASES = ("warm-up", "training")
SAFETENSORS_NAMES = {torch.float32: "F32", torch.bool: "BOOL"}
OWN_FILES = frozenset((WEIGHTS_FILE, SETTINGS_FILE, HISTORY_FILE))
LOG_FILE = "log.jsonl"
UNFINISHED_ENDING = ".unfinished"
# A folder that holds anything else is not taken for a run, and not replaced. Interrupted diagnoses
# of version 0.1.0 left a folder in the run.
_REPORT_FILES = {"report.html", "report.json", "report.json.unfinished", "certificate.json"}
RUN_FILES = OWN_FILES | {LOG_FILE, *_REPORT_FILES}
# Version 0.1.0 wrote states as safetensors: its folders are known, to be refused or replaced.
_STATE_ENDINGS = (STATE_ENDING, ".state.safetensors")
_STATES = (f"{phase}{ending}" for phase in PHASES for ending in _STATE_ENDINGS)
_TRAINING_NAMES = ("training.json", LOG_FILE, *_STATES)
# A killed process leaves files that end in ".new".
TRAINING_FILES = frozenset((*_TRAINING_NAMES, *(f"{name}.new" for name in _TRAINING_NAMES)))


class SavedVocabulary(BaseModel):
    """Known symbols of sequences, in the order of their numbers."""

    level: Literal["word", "character", "token"]
    known: list[StrictStr] | list[StrictInt]


class SavedRun(BaseModel):
    """Contents of a fitted estimator besides its weights and its history.

    `constants` are the decoder's inverse Lipschitz constants after training.
    """

    format: Annotated[int, Field(ge=1)] = FORMAT
    version: str = __version__
    estimator: str
    parameters: dict[str, Any]
    n_features: Annotated[int, Field(ge=1, lt=2**31)]
    feature_names: list[str] | None
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    vocabulary: SavedVocabulary | None = None
    constants: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None = None


def write_run(
    folder: Path,
    run: SavedRun,
    weights: Mapping[str, Tensor],
    history: pd.DataFrame,
    overwrite: bool = False,
) -> None:
    """Write a run, whole or not at all. Of several processes, only the first one writes.

    Raises:
        FileError: if something is there that may not be replaced, or the folder cannot be written.
    """
    if not is_first_process():
        return
    with new_folder(folder, overwrite, RUN_FILES) as scratch:
        contiguous = {name: value.contiguous() for name, value in weights.items()}
        try:
            save_file(contiguous, scratch / WEIGHTS_FILE)
        except SafetensorError as error:
            raise FileError(
                f"cannot write {folder} ({error}): make room, or choose another place."
            ) from None
        (scratch / SETTINGS_FILE).write_text(run.model_dump_json(indent=2) + "\n", encoding="utf-8")
        history.to_csv(scratch / HISTORY_FILE, index=False)


class Unfinished:
    """The folder beside a run that holds the state of its training.

    Args:
        run: path of the run, which need not exist.

    Attributes:
        folder: path of the folder with the state.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.folder = run.with_name(f"{run.name}{UNFINISHED_ENDING}")

    def begin(self, resume: bool, overwrite: bool) -> bool:
        """Prepare to begin a training, or to resume an interrupted one.

        Returns:
            Whether there is something to do: False if a training is to be resumed that is complete.

        Raises:
            FileError: if something is there that may not be replaced, or the place cannot be
                written to.
        """
        check_writable(self.folder, True, TRAINING_FILES)
        is_interrupted = self.folder.exists()
        if resume and not is_interrupted and (self.run / SETTINGS_FILE).is_file():
            return False
        check_writable(self.run, overwrite or (resume and is_interrupted), RUN_FILES)
        if resume or not is_interrupted:
            return True
        if not overwrite:
            raise FileError(
                f"{self.folder} holds an interrupted training: resume it (--resume), or delete it "
                "(--overwrite)."
            )
        remove_folder(self.folder)
        return True

    def end(self, goes_on: bool) -> None:
        """Copy the log into the run, and remove the folder unless training is resumed later."""
        if not is_first_process():
            return
        log = self.folder / LOG_FILE
        if log.is_file():
            write_bytes(self.run / LOG_FILE, log.read_bytes())
        if not goes_on:
            remove_folder(self.folder)


def read_run(folder: Path) -> SavedRun:
    """Read the settings of a run.

    Raises:
        FileError: if the folder holds no run, a damaged one, or one of another format.
    """
    path = folder / SETTINGS_FILE
    if not os.path.isfile(path):  # Path.is_file fails for impossible names.
        raise FileError(
            f"{folder} holds no saved model: expected a folder that `save` or `uncollapse fit` "
            f"wrote, with {path.name}."
        )
    try:
        for name in sorted(OWN_FILES):
            check_readable(folder / name)
    except InputError as error:
        raise damaged(folder, str(error)) from None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _check_format(folder, content)
        settings = SavedRun.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise damaged(folder, f"{path.name}: {place}: {first['msg']}") from None
    except InputError:
        raise
    except (ValueError, OSError, RecursionError) as error:  # No JSON, or no UTF-8.
        raise damaged(folder, f"{path.name}: {error}") from None
    n_names = None if settings.feature_names is None else len(settings.feature_names)
    if n_names not in (None, settings.n_features):
        raise damaged(folder, f"{path.name}: {n_names} names for {settings.n_features} features")
    return settings


def _check_format(folder: Path, content: Any) -> None:
    """Raise `FileError` for a run that was saved in another format."""
    number = content.get("format") if isinstance(content, dict) else None
    if not isinstance(number, int) or number < 1 or number == FORMAT:
        return  # The schema refuses what is no format.
    if number > FORMAT:
        raise FileError(
            f"{folder} was saved by uncollapse {content.get('version')} in format {number}, and "
            f"this is {__version__}, which reads format {FORMAT}: pip install --upgrade uncollapse."
        )
    raise FileError(
        f"{folder} was saved in format {number}, by a development version, and cannot be read any "
        "more: fit it again."
    )


def read_weights(folder: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the weights of a run, if the file's header announces what is expected.

    Args:
        folder: folder of the run.
        expected: tensors of the expected shapes; their values do not matter.

    Raises:
        FileError: if the file is damaged, or holds other tensors or values that are not finite.
    """
    path = folder / WEIGHTS_FILE
    shapes = {
        name: (tuple(value.shape), SAFETENSORS_NAMES[value.dtype])
        for name, value in expected.items()
    }
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {
                name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()
            }
        if found != shapes:
            raise damaged(
                folder,
                f"the tensors of {WEIGHTS_FILE} are not those that {SETTINGS_FILE} describes",
            )
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise damaged(folder, f"{WEIGHTS_FILE}: {error}") from None
    if not all(value.isfinite().all() for value in weights.values()):
        raise damaged(folder, f"{WEIGHTS_FILE} holds values that are not finite")
    return weights


def read_history(folder: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read the history of a run, which must have these columns.

    Raises:
        FileError: if the file is damaged.
    """
    try:
        history = read_table(folder / HISTORY_FILE)
    except (ValueError, OSError) as error:
        raise damaged(folder, f"{HISTORY_FILE}: {error}") from None
    is_numeric = all(map(pd.api.types.is_numeric_dtype, history.dtypes)) or not len(history)
    if tuple(history.columns) != columns or not is_numeric:
        raise damaged(
            folder, f"{HISTORY_FILE}: expected numbers in the columns {', '.join(columns)}"
        )
    return history


def damaged(folder: Path, reason: str) -> InputError:
    """Return the error for a run that cannot be read."""
    return FileError(f"{folder} holds a damaged model ({one_line(reason)}): fit and save it again.")
