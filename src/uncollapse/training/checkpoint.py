"""The state of a training on disk, from which another process goes on as if nothing had happened. Nothing in it can be executed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from uncollapse._version import __version__
from uncollapse.errors import InputError, one_line
from uncollapse.files import write_bytes
from uncollapse.processes import is_first_process
from uncollapse.runs import IDENTITY_FILE, LOG_FILE, STATE_ENDING


class Checkpoint:
    """A folder that holds the state of one training, in one phase or several, and its log.

    Of processes that train together, the first one writes.

    Args:
        folder: need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.identity: dict[str, Any] = {}

    def open_log(self, n_lines: int) -> Path:
        """The log, cut to so many lines: those of the epochs that are done."""
        path = self.folder / LOG_FILE
        if is_first_process():
            lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
            write_bytes(path, b"".join(lines[:n_lines]))
        return path

    def agree(self, identity: Mapping[str, Any], any_seed: bool = False) -> dict[str, Any]:
        """What the training is that the folder holds, or this one if it holds none.

        Args:
            identity: all that decides over the result, its seed among it, as JSON has it.
            any_seed: whether the seed of the training that is there may be another one.

        Raises:
            InputError: if the folder holds another training, or cannot be read or written.
        """
        wanted = {"version": __version__, **json.loads(json.dumps(identity))}
        path = self.folder / IDENTITY_FILE
        self.identity = wanted
        if not path.is_file():
            return wanted
        self.identity = found = self._identity(path)
        if any_seed:
            wanted["seed"] = found.get("seed")
        different = [name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)]
        if different:
            raise InputError(
                f"{self.folder} holds the state of another training, of which {_difference(found, wanted, sorted(different)[0])}: "
                "give what it was begun with, or remove the folder to begin anew."
            )
        return found

    def begin(self) -> None:
        """Write down what the training is, as `agree` has found.

        Raises:
            InputError: if it cannot be written.
        """
        path = self.folder / IDENTITY_FILE
        if is_first_process() and not path.is_file():
            write_bytes(path, json.dumps(self.identity, indent=2).encode())

    def _identity(self, path: Path) -> dict[str, Any]:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            raise self._damaged(path, error) from None
        if not isinstance(found, dict):
            raise self._damaged(path, "no object")
        return found

    def read(self, phase: str) -> dict[str, Any] | None:
        """The state of a phase; None where it has not begun.

        Raises:
            InputError: if the file is damaged.
        """
        path = self.folder / f"{phase}{STATE_ENDING}"
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                state: dict[str, Any] = json.loads(file.metadata()["state"])
                for name in file.keys():  # noqa: SIM118
                    _put(state, name.split("/"), file.get_tensor(name).clone())
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._damaged(path, error) from None
        return state

    def write(self, phase: str, state: Mapping[str, Any]) -> None:
        """Replace the state of a phase.

        Args:
            phase: its name, one of `uncollapse.runs.PHASES`.
            state: tensors, and what JSON has, in dictionaries whose keys are strings without a "/".

        Raises:
            InputError: if it cannot be written. What was there before stays.
        """
        tensors = {name: value.detach().cpu().contiguous() for name, value in _tensors(state)}
        content = save(tensors, {"state": json.dumps(_without_tensors(state))})
        write_bytes(self.folder / f"{phase}{STATE_ENDING}", content)

    def _damaged(self, path: Path, reason: Any) -> InputError:
        what = one_line(f"{type(reason).__name__} {reason}") if isinstance(reason, Exception) else reason
        return InputError(f"{path} is damaged ({what}): remove the folder {self.folder} to begin anew.")


def _tensors(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        if isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{name}/")
        elif isinstance(value, Tensor):
            yield f"{prefix}{name}", value


def _without_tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_tensors(value) if isinstance(value, Mapping) else value
        for name, value in state.items()
        if not isinstance(value, Tensor)
    }


def _put(state: dict[str, Any], path: list[str], value: Tensor) -> None:
    for name in path[:-1]:
        state = state[name]
    state[path[-1]] = value


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any], name: str) -> str:
    there, here = found.get(name), wanted.get(name)
    if isinstance(there, dict) and isinstance(here, dict):
        inner = next(key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key))
        return _difference(there, here, inner)
    return f"{name} is {there!r} and not {here!r}"
