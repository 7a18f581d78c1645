"""Writing to disk without losing anything: nothing is replaced unasked, and nothing is ever half-written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from uncollapse.errors import InputError


def check_writable(target: Path, overwrite: bool) -> None:
    """Raise `InputError` if something is already there and may not be replaced."""
    if target.exists() and not overwrite:
        raise InputError(f"{target} already exists: choose another path, or allow its replacement with overwrite (--overwrite).")


def write_text(target: str | Path, text: str, overwrite: bool = False) -> Path:
    """Write a file aside, and move it to its place when it is whole.

    Raises:
        InputError: if the file exists and `overwrite` is False, or if the folder cannot be written to.
    """
    target = Path(target)
    check_writable(target, overwrite)
    with _aside(target) as scratch:
        (scratch / target.name).write_text(text, encoding="utf-8")
        os.replace(scratch / target.name, target)
    return target


@contextmanager
def new_folder(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """A scratch folder that takes the place of `target` once the block has ended well.

    Raises:
        InputError: if the folder exists and `overwrite` is False, or if its parent cannot be written to.
    """
    check_writable(target, overwrite)
    with _aside(target) as scratch:
        fresh = scratch / "new"
        fresh.mkdir()
        yield fresh
        if target.exists():
            os.replace(target, scratch / "old")
        os.replace(fresh, target)


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    scratch = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        yield scratch
    except OSError as error:
        raise InputError(f"cannot write {target} ({error.strerror or error}): make room, or choose another place.") from None
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
