"""Results of trials on disk."""

import json
import math
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from uncollapse._utils.errors import FileError
from uncollapse._utils.files import cannot_write, check_writable


class ResultsFolder:
    """Results of trials: a file with one JSON line for each, fitted models, and states to resume.

    Lines are appended and never changed. A last line that a kill has truncated is ignored, and the
    next row replaces it.

    Args:
        path: of the file, which need not exist.

    Attributes:
        models: folder with one folder for each saved model, named by the key of its trial.
        states: folder with one folder for each unfinished trial, named by its key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # These are absolute, because the processes of Ray start in other folders.
        self.models = path.absolute().parent / "models"
        self.states = path.absolute().with_suffix(".unfinished")

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows, or raise `FileError` if a line other than the last is damaged."""
        if not self.path.is_file():
            return []
        lines = self.path.read_bytes().split(b"\n")
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                rows += [json.loads(line)] if line else []
            except ValueError:
                if number < len(lines):
                    raise FileError(
                        f"line {number} of {self.path} is not valid JSON. Repair or remove the "
                        "line, or choose another --output."
                    ) from None
        return rows

    def rows_by_key(self) -> dict[str, dict[str, Any]]:
        """Return the last row of each trial."""
        return {row["key"]: row for row in self.rows()}

    def check_resume(self, resume: bool) -> None:
        """Raise `FileError` if there are results and they are not to be resumed."""
        n_rows = 0 if resume else len(self.rows())
        if n_rows:
            raise FileError(
                f"{self.path} holds {n_rows} trials. Resume them with --resume, or choose another "
                "--output."
            )

    def record(self, row: Mapping[str, Any]) -> None:
        """Write the row of a finished trial to the disk, and remove its state.

        Non-finite numbers become null. If the row cannot be written, earlier rows stay.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append(json.dumps(_finite(row), allow_nan=False).encode())
        except OSError as error:
            raise cannot_write(self.path, error) from None
        self._remove_state(row["key"])

    def _append(self, line: bytes) -> None:
        with self.path.open("ab+") as file:
            file.seek(0)
            *complete, last = file.read().split(b"\n")
            if last and _is_json(last):
                file.write(b"\n")
            else:
                file.truncate(sum(len(line) + 1 for line in complete))
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def remove_finished_states(self, keep: Collection[str] = ()) -> None:
        """Remove states that a kill has left of finished trials, except those of some keys."""
        for key in set(self.rows_by_key()) - set(keep):
            self._remove_state(key)
        if self.states.is_dir() and not any(self.states.iterdir()):
            self.states.rmdir()

    def _remove_state(self, key: str) -> None:
        # `remove_finished_states` removes whatever this leaves behind.
        shutil.rmtree(self.states / str(key), ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from running trials in this folder, or raise `FileError` if one does
        so already."""
        check_writable(self.path, overwrite=True)
        try:
            with FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=0):
                yield
        except Timeout:
            raise FileError(
                f"{self.path} is being written by another process. Wait for it to end, or choose "
                "another --output."
            ) from None


def _finite(value: Any) -> Any:
    """Return a value of JSON with null in place of non-finite numbers."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
