"""Results on disk: one JSON line for each run, appended when it is done and never changed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uncollapse._utils.errors import FileError
from uncollapse._utils.files import cannot_write


class ResultsFile:
    """The rows of a file that only grows.

    A last line that was cut short by a kill is not a row, and the next row takes its place.

    Args:
        path: of the file, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, Any]]:
        """All rows.

        Raises:
            InputError: if a line other than the last is damaged.
        """
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
                        f"line {number} of {self.path} is no JSON: mend or remove it, or choose "
                        "another --output."
                    ) from None
        return rows

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a row, to the disk itself. What is not finite becomes null, as JSON has no other
        word for it.

        Raises:
            InputError: if it cannot be written. What was there before stays.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append(json.dumps(_plain(row), allow_nan=False).encode())
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def _append(self, line: bytes) -> None:
        with self.path.open("ab+") as file:
            file.seek(0)
            *whole, last = file.read().split(b"\n")
            if last and _is_row(last):
                file.write(b"\n")
            else:
                file.truncate(sum(len(line) + 1 for line in whole))
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_row(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
