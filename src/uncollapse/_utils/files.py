"""Files: nothing is replaced unasked, nothing is ever half-written, and what is read may hold
anything."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uncollapse._utils.errors import FileError, InputError
from uncollapse._utils.machine import memory_bytes
from uncollapse._utils.signals import deferred_interrupt

if TYPE_CHECKING:
    import pandas as pd

SCRATCH = ".uncollapse-"  # begins the names of folders that a kill can leave behind


def check_readable(path: Path, what: str = "file", in_parts: bool = False) -> None:
    """Find out before a file is read whole whether it can be.

    Args:
        path: of the file.
        what: to call it in messages.
        in_parts: whether it need not be read whole.

    Raises:
        InputError: if there is no such file, what is there is a folder, a device or a pipe, or it
            is larger than the memory.
    """
    if not os.path.isfile(path):  # which has an answer for names that no file can have, too
        raise FileError(f"there is no {what} {path}: check the path.")
    if not in_parts:
        check_fits_memory(path, os.path.getsize(path))


def read_table(path: Path, **options: Any) -> pd.DataFrame:
    """A CSV file, UTF-8, whatever it holds, with options of pandas.

    All ends of lines are made alike, as lone carriage returns make pandas read lines without end.
    Numbers are read exactly: its faster way, before its version 3, ends the process at the exponent
    of 1e2147483648.
    """
    import pandas as pd

    with path.open(encoding="utf-8-sig") as file:
        table: pd.DataFrame = pd.read_csv(
            file, index_col=False, float_precision="round_trip", **options
        )
    return table


def check_fits_memory(path: Path, n_bytes: float) -> None:
    """Raise `InputError` for a file whose content takes more bytes than this machine has memory."""
    there = memory_bytes()
    if n_bytes > there:
        raise FileError(
            f"{path} takes {n_bytes / 2**30:.3g} GiB of memory, and this machine has "
            f"{there / 2**30:.3g}: take a part of it."
        )


def resolved(path: str | Path) -> Path:
    """The absolute path, with links followed as far as they lead.

    Raises:
        InputError: if no file can have that name.
    """
    return Path(os.path.realpath(_absolute(path)))


def _absolute(path: str | Path) -> Path:
    if "\0" in str(path):
        raise FileError(f"a path expects no NUL character, got {str(path)!r}: choose another name.")
    return Path(os.path.abspath(path))


def check_writable(target: Path, overwrite: bool, contents: frozenset[str] | None = None) -> None:
    """Find out before the work whether its result can be written.

    Args:
        target: the file or folder to write.
        overwrite: whether it may be replaced.
        contents: for a folder, the names that it may hold; one that holds anything else is not
            replaced.

    Raises:
        InputError: if something is there that may not be replaced, or the place cannot be written
            to.
    """
    target = _absolute(target)
    with _aside(target):
        if not _is_there(target):
            return
        if not overwrite:
            raise FileError(
                f"{target} already exists: choose another path, or allow its replacement with "
                "overwrite (--overwrite)."
            )
        if target.is_file() if contents is None else _is_ours(target, contents):
            return
        raise FileError(
            f"{target} is something else than what is to be written, and is not replaced: choose "
            "another path."
        )


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()  # a link counts as well if it leads nowhere


def _is_ours(folder: Path, contents: frozenset[str]) -> bool:
    if not folder.is_dir() or os.path.ismount(folder):
        return False
    return all(path.name in contents or path.name.startswith(SCRATCH) for path in folder.iterdir())


def write_text(target: str | Path, text: str, overwrite: bool = False) -> Path:
    """Write a file aside, and move it to its place when it is whole.

    Raises:
        InputError: if the file exists and `overwrite` is False, or cannot be written.
    """
    target = _absolute(target)
    check_writable(target, overwrite)
    with _aside(target) as scratch:
        (scratch / "new").write_text(text, encoding="utf-8", errors="backslashreplace")
        _settle(scratch / "new")
        os.replace(scratch / "new", target)
        _settle(target.parent)
    return target


def write_bytes(target: Path, content: bytes) -> None:
    """Write a file that is ours to replace: aside, and into its place when it is whole and on the
    disk itself.

    Raises:
        InputError: if it cannot be written. What was there before stays.
    """
    fresh = target.with_name(f"{target.name}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(content)
        _settle(fresh)
        os.replace(fresh, target)
        _settle(target.parent)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)  # what room it takes is needed
        raise cannot_write(target, error) from None


def remove_folder(folder: Path) -> None:
    """Remove a folder, so that a kill on the way leaves no part of it in its place."""
    with _aside(folder) as scratch:
        os.replace(folder, scratch / "gone")


def _settle(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk itself."""
    if path.is_dir() and os.name == "nt":  # which has no such thing for folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(target: Path, error: OSError) -> InputError:
    """The error for a file or folder that the system does not let be written."""
    return FileError(
        f"cannot write {target} ({error.strerror or error}): make room, or choose another place."
    )


@contextmanager
def new_folder(target: Path, overwrite: bool, contents: frozenset[str]) -> Iterator[Path]:
    """A scratch folder that takes the place of `target` once the block has ended well.

    Args:
        target: where the folder goes.
        overwrite: whether a folder of the same kind may be replaced.
        contents: the names that a folder of this kind may hold.

    Raises:
        InputError: if something is there that may not be replaced, or cannot be written.
    """
    target = _absolute(target)
    check_writable(target, overwrite, contents)
    with _aside(target) as scratch:
        fresh, old = scratch / "new", scratch / "old"
        fresh.mkdir()
        yield fresh
        for path in (*fresh.iterdir(), fresh):
            _settle(path)
        with deferred_interrupt():
            if _is_there(target):
                os.replace(target, old)
            try:
                os.replace(fresh, target)
            except BaseException:
                if _is_there(old):
                    os.replace(old, target)
                raise
        _settle(target.parent)


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A folder beside the target, on the same disk."""
    scratch = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=target.parent))
        yield scratch
    except OSError as error:
        raise cannot_write(target, error) from None
    finally:
        # Should even the way back have failed, what was there before stays where it is.
        if scratch is not None and not (_is_there(scratch / "old") and not _is_there(target)):
            shutil.rmtree(scratch, ignore_errors=True)
