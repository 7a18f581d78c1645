"""The state of a long piece of work on disk, from which another process goes on. Nothing in it can
be executed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from uncollapse._utils.errors import FileError, InputError, one_line
from uncollapse._utils.files import write_bytes
from uncollapse._utils.processes import is_first_process
from uncollapse._version import __version__

STATE_ENDING = ".state.safetensors"

# Of a difference that does not speak for itself.
REASONS = {
    "digest": "the rows are others or come in other parts, or are drawn anew each time by generators other than torch's"
}


class StateFolder:
    """A folder that holds the state of one piece of work, in parts, and which work that is.

    Of processes that work together, the first one writes.

    Args:
        folder: need not exist.
        work: what it is called, such as "training".
    """

    def __init__(self, folder: Path, work: str) -> None:
        self.folder, self.work = folder, work
        self.identity: dict[str, Any] = {}

    def agree(self, identity: Mapping[str, Any], any_seed: bool = False) -> dict[str, Any]:
        """What the work is that the folder holds, or this one if it holds none.

        Args:
            identity: all that decides over the result, its seed among it, as JSON has it.
            any_seed: whether the seed of the work that is there may be another one.

        Raises:
            InputError: if the folder holds other work, or cannot be read or written.
        """
        wanted = {"version": __version__, **json.loads(json.dumps(identity))}
        self.identity = wanted
        found = self.found()
        if found is None:
            return wanted
        self.identity = found
        if any_seed:
            wanted["seed"] = found.get("seed")
        different = [
            name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
        ]
        if different:
            raise self.of_other_work(_difference(found, wanted, sorted(different)[0]))
        return found

    def found(self) -> dict[str, Any] | None:
        """What the work is that the folder holds; None if it holds none.

        Raises:
            InputError: if the file that tells it is damaged.
        """
        return self._identity() if self._identity_file.is_file() else None

    def begin(self) -> None:
        """Write down what the work is, as `agree` has found.

        Raises:
            InputError: if it cannot be written.
        """
        if is_first_process() and not self._identity_file.is_file():
            for path in self.folder.glob(
                f"*{STATE_ENDING}"
            ):  # of which nobody knows whose they are
                path.unlink()
            write_bytes(self._identity_file, json.dumps(self.identity, indent=2).encode())

    def read(self, part: str) -> dict[str, Any] | None:
        """The state of a part; None where it has not begun, or nothing tells of which work it is.

        Raises:
            InputError: if the file is damaged, or of other work.
        """
        path = self.folder / f"{part}{STATE_ENDING}"
        if not (path.is_file() and self._identity_file.is_file()):
            return None
        try:
            with safe_open(path, framework="pt") as file:
                told = file.metadata()
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            if told["digest"] != self._checksum(part, told["state"], tensors):
                raise ValueError("its content has changed since it was written")
            state: dict[str, Any] = json.loads(told["state"])
            for name, tensor in tensors.items():
                _put(state, name.split("/"), tensor)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._damaged(path, error) from None
        return state

    def write(self, part: str, state: Mapping[str, Any]) -> None:
        """Replace the state of a part.

        Args:
            part: its name.
            state: tensors, and what JSON has, in dictionaries whose keys are strings without a "/".

        Raises:
            InputError: if it cannot be written. What was there before stays.
        """
        tensors = {name: value.detach().cpu().contiguous() for name, value in _tensors(state)}
        rest = json.dumps(_without_tensors(state))
        content = save(tensors, {"state": rest, "digest": self._checksum(part, rest, tensors)})
        write_bytes(self.folder / f"{part}{STATE_ENDING}", content)

    def of_other_work(self, difference: str) -> InputError:
        """The error for a state that is not of this work, and what is different."""
        return FileError(
            f"{self.folder} holds the state of another {self.work}, of which {difference}: give "
            "what it was begun with, or remove "
            "the folder to begin anew."
        )

    def _checksum(self, part: str, rest: str, tensors: Mapping[str, Tensor]) -> str:
        whose = json.dumps(self.identity, sort_keys=True)
        return hashlib.blake2b(
            f"{self.work} {whose} {part} {digest(tensors)} {rest}".encode(), digest_size=16
        ).hexdigest()

    @property
    def _identity_file(self) -> Path:
        return self.folder / f"{self.work}.json"

    def _identity(self) -> dict[str, Any]:
        try:
            found = json.loads(self._identity_file.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            raise self._damaged(self._identity_file, error) from None
        if not isinstance(found, dict):
            raise self._damaged(self._identity_file, "no object")
        return found

    def _damaged(self, path: Path, reason: Any) -> InputError:
        what = (
            one_line(f"{type(reason).__name__} {reason}")
            if isinstance(reason, Exception)
            else reason
        )
        return FileError(
            f"{path} is damaged ({what}): remove the folder {self.folder} to begin anew."
        )


def digest(tensors: Mapping[str, Tensor]) -> str:
    """32 hexadecimal digits that depend on every bit of tensors, on their names, types and
    shapes."""
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


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
        inner = next(
            key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key)
        )
        return _difference(there, here, inner)
    why = REASONS.get(name)
    return f"{name} is {there!r} and not {here!r}" + (f" ({why})" if why else "")
