"""Writing to disk without losing anything: nothing is replaced unasked, and nothing is ever half-written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from uncollapse.errors import InputError


def check_writable(target: Path, overwrite: bool, marker: str | None = None) -> None:
    """Find out before the work whether its result can be written.

    Args:
        target: the file or folder to write.
        overwrite: whether it may be replaced.
        marker: a folder is replaced only if it is empty or holds a file of this name.

    Raises:
        InputError: if something is there that may not be replaced, or the place cannot be written to.
    """
    with _aside(target):
        if not target.exists():
            return
        if not overwrite:
            raise InputError(
                f"{target} already exists: choose another path, or allow its replacement with overwrite (--overwrite)."
            )
        is_ours = target.is_dir() and marker is not None and (not any(target.iterdir()) or (target / marker).is_file())
        if target.is_dir() != (marker is not None) or (target.is_dir() and not is_ours):
            raise InputError(f"{target} is something else than what is to be written, and is not replaced: choose another path.")


def write_text(target: str | Path, text: str, overwrite: bool = False) -> Path:
    """Write a file aside, and move it to its place when it is whole.

    Raises:
        InputError: if the file exists and `overwrite` is False, or cannot be written.
    """
    target = Path(target)
    check_writable(target, overwrite)
    with _aside(target) as scratch:
        (scratch / "new").write_text(text, encoding="utf-8")
        os.replace(scratch / "new", target)
    return target


@contextmanager
def new_folder(target: Path, overwrite: bool, marker: str) -> Iterator[Path]:
    """A scratch folder that takes the place of `target` once the block has ended well.

    Args:
        target: where the folder goes.
        overwrite: whether a folder of the same kind may be replaced.
        marker: the file by which such a folder is known.

    Raises:
        InputError: if something is there that may not be replaced, or cannot be written.
    """
    check_writable(target, overwrite, marker)
    with _aside(target) as scratch:
        fresh, old = scratch / "new", scratch / "old"
        fresh.mkdir()
        yield fresh
        try:
            if target.exists():
                os.replace(target, old)
            os.replace(fresh, target)
        except BaseException:
            if old.exists() and not target.exists():
                os.replace(old, target)
            raise


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A folder beside the target, on the same disk."""
    scratch = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".uncollapse-", dir=target.parent))
        yield scratch
    except OSError as error:
        raise InputError(f"cannot write {target} ({error.strerror or error}): make room, or choose another place.") from None
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
