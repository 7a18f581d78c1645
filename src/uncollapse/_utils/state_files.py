"""State of long work on disk, from which another process continues it. Loading executes nothing."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uncollapse._utils.errors import FileError, InputError, one_line
from uncollapse._utils.files import write_bytes
from uncollapse._utils.processes import is_first_process
from uncollapse._version import __version__

STATE_ENDING = ".state.pt"
STATE_FORMAT = 2  # increases with each change of what is written
CHECKSUM_BYTES = 16

# Explanations of differences that are not clear from their names.
REASONS = {
    "digest": "the rows or their batches differ, or are drawn by generators other than torch's"
}


class StateFolder:
    """A folder with the state of one piece of work, in parts, and the identity of the work.

    Of several processes, the first one writes.

    Args:
        folder: path of the folder, which need not exist.
        work: name of the kind of work, such as "training".
    """

    def __init__(self, folder: Path, work: str) -> None:
        self.folder, self.work = folder, work
        self.identity: dict[str, Any] = {}
        self._identity_file = folder / f"{work}.json"

    def agree(self, identity: Mapping[str, Any], any_seed: bool = False) -> dict[str, Any]:
        """Compare the work with what the folder holds.

        Args:
            identity: all settings that determine the result, among them the seed, as JSON values.
            any_seed: whether the seed of the work in the folder may differ.

        Returns:
            The identity of the work in the folder, or of this work if the folder holds none.

        Raises:
            FileError: if the folder holds other work, or cannot be read.
        """
        wanted = json.loads(json.dumps(identity))
        wanted |= {"version": __version__, "format": STATE_FORMAT}
        found = self.found()
        self.identity = found = wanted if found is None else found
        if any_seed:
            wanted["seed"] = found.get("seed")
        if found != wanted:
            raise FileError(
                f"{self.folder} belongs to another {self.work} ({_difference(found, wanted)}). Use "
                "the original settings, or delete the folder."
            )
        return found

    def found(self) -> dict[str, Any] | None:
        """Return the identity of the work that the folder holds, or None.

        Raises:
            FileError: if its file is damaged.
        """
        if not self._identity_file.is_file():
            return None
        try:
            found = json.loads(self._identity_file.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            reason = f"{type(error).__name__} {error}"
            raise self._damaged(self._identity_file, reason) from None
        if not isinstance(found, dict):
            raise self._damaged(self._identity_file, "no object")
        return found

    def begin(self) -> None:
        """Write the identity of the work, which `agree` has determined.

        Raises:
            FileError: if it cannot be written.
        """
        if is_first_process() and not self._identity_file.is_file():
            for path in self.folder.glob(f"*{STATE_ENDING}"):  # States of unknown work.
                path.unlink()
            write_bytes(self._identity_file, json.dumps(self.identity, indent=2).encode())

    def read(self, part: str) -> dict[str, Any] | None:
        """Return the state of a part, or None if it has not begun or its work is unknown.

        Raises:
            FileError: if the file is damaged, or belongs to other work.
        """
        path = self.folder / f"{part}{STATE_ENDING}"
        if not (path.is_file() and self._identity_file.is_file()):
            return None
        try:
            content = path.read_bytes()
            checksum, payload = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
            if checksum != self._checksum(part, payload):
                raise ValueError("its content has changed since it was written")
            return dict(torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True))
        except Exception as error:  # torch raises many kinds.
            raise self._damaged(path, f"{type(error).__name__} {error}") from None

    def write(self, part: str, state: Mapping[str, Any]) -> None:
        """Replace the state of a part.

        Args:
            part: name of the part.
            state: nested dictionaries and lists of tensors, numbers, strings and None.

        Raises:
            FileError: if it cannot be written. The state before it is kept.
        """
        buffer = io.BytesIO()
        torch.save(_plain(state), buffer)
        payload = buffer.getvalue()
        content = self._checksum(part, payload) + payload
        write_bytes(self.folder / f"{part}{STATE_ENDING}", content)

    def _checksum(self, part: str, payload: bytes) -> bytes:
        name = f"{self.work} {json.dumps(self.identity, sort_keys=True)} {part} "
        return hashlib.blake2b(name.encode() + payload, digest_size=CHECKSUM_BYTES).digest()

    def _damaged(self, path: Path, reason: str) -> InputError:
        return FileError(
            f"{path} is damaged ({one_line(reason)}): delete the folder {self.folder} to start "
            "again."
        )


def _plain(value: Any) -> Any:
    """Return a copy of a state that `torch.load` reads with `weights_only=True`."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        return value.detach().clone()  # A view would be saved with all of its storage.
    return value.item() if isinstance(value, np.generic) else value


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return the first difference of two identities, in words."""
    keys = sorted(found.keys() | wanted.keys())
    name = next(key for key in keys if found.get(key) != wanted.get(key))
    before, now = found.get(name), wanted.get(name)
    if isinstance(before, dict) and isinstance(now, dict):
        return _difference(before, now)
    reason = f", as {REASONS[name]}" if name in REASONS else ""
    return f"{name} was {before!r} and is {now!r}{reason}"
