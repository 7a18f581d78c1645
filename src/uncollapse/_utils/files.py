"""Safe files: nothing is replaced unasked or half-written, and reading is prepared for anything."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uncollapse._utils.errors import FileError
from uncollapse._utils.machine import memory_bytes
from uncollapse._utils.signals import deferred_interrupt

if TYPE_CHECKING:
    import pandas as pd

SCRATCH = ".uncollapse-"  # prefix of temporary folders, which a killed process leaves behind

# gzip shrinks zeros to a thousandth, and binary images in float64 to a hundredth.
MAX_GROWTH = 200
UNSUSPECTED_BYTES = 2**30


def check_readable(path: Path, what: str = "file", in_parts: bool = False) -> None:
    """Check that a file can be read.

    Args:
        path: path of the file.
        what: word for it in messages.
        in_parts: whether it may be larger than memory.

    Raises:
        FileError: if it is missing, no regular file, or larger than memory.
    """
    if not os.path.isfile(path):  # Path.is_file fails for impossible names.
        raise FileError(f"there is no {what} {path}: check the path.")
    if not in_parts:
        check_fits_memory(path, os.path.getsize(path))


def read_table(path: Path, **options: Any) -> pd.DataFrame:
    """Read a CSV file in UTF-8, whatever it holds, with options of pandas.

    Python reads the lines, as lone carriage returns make pandas read without end. Numbers are
    parsed exactly; the faster parser of pandas below 3 crashes at the exponent of 1e2147483648.
    """
    import pandas as pd

    if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1):
        options["float_precision"] = "round_trip"  # the default from then on
    with path.open(encoding="utf-8-sig") as file:
        table: pd.DataFrame = pd.read_csv(file, index_col=False, **options)
    return table


def check_fits_memory(path: Path, n_bytes: float) -> None:
    """Raise `FileError` for a file whose content is larger than this machine's memory."""
    available = memory_bytes()
    if n_bytes > available:
        raise FileError(
            f"{path} takes {n_bytes / 2**30:.3g} GiB of memory, and this machine has "
            f"{available / 2**30:.3g}: take a part of it."
        )


def check_unpacked(path: Path, n_bytes: int) -> None:
    """Raise `FileError` for a file that unpacks to n bytes, if that is more than memory or more
    than real data would."""
    if n_bytes > max(UNSUSPECTED_BYTES, MAX_GROWTH * path.stat().st_size):
        raise FileError(
            f"{path} unpacks to {n_bytes / 2**30:.3g} GiB or more, over {MAX_GROWTH} times its "
            "size, and may be made to fill the memory: if it is yours, save it unpacked."
        )
    check_fits_memory(path, n_bytes)


def gunzip(path: Path) -> bytes:
    """Return the content of a .gz file.

    Raises:
        FileError: if it is suspiciously large.
        OSError, EOFError, zlib.error: if the file is damaged.
    """
    n_bytes = 0
    with gzip.open(path) as file:
        while piece := file.read(2**20):  # The size is counted before anything is kept.
            n_bytes += len(piece)
            check_unpacked(path, n_bytes)
    return gzip.decompress(path.read_bytes())


def resolved(path: str | Path) -> Path:
    """Return the absolute path, with links followed as far as they lead.

    Raises:
        FileError: if no file can have that name.
    """
    return Path(os.path.realpath(_absolute(path)))


def _absolute(path: str | Path) -> Path:
    if "\0" in str(path):
        raise FileError(f"a path expects no NUL character, got {str(path)!r}: choose another name.")
    return Path(os.path.abspath(path))


def check_writable(target: Path, overwrite: bool, contents: frozenset[str] | None = None) -> None:
    """Check before the work whether its result can be written.

    Args:
        target: file or folder to write.
        overwrite: whether it may be replaced.
        contents: names that a folder may hold; one that holds anything else is not replaced. None
            for a file.

    Raises:
        FileError: if something is there that may not be replaced, or the place cannot be written
            to.
    """
    target = _absolute(target)
    with _scratch_folder(target):
        if not _exists(target):
            return
        if not overwrite:
            raise FileError(
                f"{target} already exists: choose another path, or allow its replacement with "
                "overwrite (--overwrite)."
            )
        if not (target.is_file() if contents is None else _holds_only(target, contents)):
            raise FileError(
                f"{target} holds something else and is not replaced: choose another path."
            )


def _exists(path: Path) -> bool:
    return path.is_symlink() or path.exists()  # A link counts even if it leads nowhere.


def _holds_only(folder: Path, contents: frozenset[str]) -> bool:
    if not folder.is_dir() or os.path.ismount(folder):
        return False
    return all(path.name in contents or path.name.startswith(SCRATCH) for path in folder.iterdir())


def write_text(target: str | Path, text: str, overwrite: bool = False) -> Path:
    """Write a text file, whole or not at all, and return its path.

    Raises:
        FileError: if the file exists and `overwrite` is False, or it cannot be written.
    """
    target = _absolute(target)
    check_writable(target, overwrite)
    with _scratch_folder(target) as scratch:
        (scratch / "new").write_text(text, encoding="utf-8", errors="backslashreplace")
        _move(scratch / "new", target)
    return target


def write_bytes(target: Path, content: bytes) -> None:
    """Write or replace a file of our own, whole or not at all, and wait until it is on the disk.

    Raises:
        FileError: if it cannot be written. The file before it is kept.
    """
    new = target.with_name(f"{target.name}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(content)
        _move(new, target)
    except OSError as error:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise cannot_write(target, error) from None


def remove_folder(folder: Path) -> None:
    """Remove a folder so that a killed process leaves all of it or nothing in its place."""
    with _scratch_folder(folder) as scratch:
        os.replace(folder, scratch / "gone")


def _move(new: Path, target: Path) -> None:
    _flush(new)
    os.replace(new, target)
    _flush(target.parent)


def _flush(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot flush folders.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(target: Path, error: OSError) -> FileError:
    """Return the error for a file or folder that the system does not let be written."""
    return FileError(
        f"cannot write {target} ({error.strerror or error}): make room, or choose another place."
    )


@contextmanager
def new_folder(target: Path, overwrite: bool, contents: frozenset[str]) -> Iterator[Path]:
    """Yield a scratch folder, which takes the place of `target` if the block ends well.

    Args:
        target: path of the folder.
        overwrite: whether a folder of the same kind may be replaced.
        contents: names that a folder of this kind may hold.

    Raises:
        FileError: if something is there that may not be replaced, or it cannot be written.
    """
    target = _absolute(target)
    check_writable(target, overwrite, contents)
    with _scratch_folder(target) as scratch:
        new, old = scratch / "new", scratch / "old"
        new.mkdir()
        yield new
        for path in (*new.iterdir(), new):
            _flush(path)
        with deferred_interrupt():
            if _exists(target):
                os.replace(target, old)
            try:
                os.replace(new, target)
            except BaseException:
                if _exists(old):
                    os.replace(old, target)
                raise
        _flush(target.parent)


@contextmanager
def _scratch_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside the target, on the same disk."""
    scratch = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=target.parent))
        yield scratch
    except OSError as error:
        raise cannot_write(target, error) from None
    finally:
        # If `new_folder` could not put the old folder back, the scratch folder keeps it.
        if scratch is not None and not (_exists(scratch / "old") and not _exists(target)):
            shutil.rmtree(scratch, ignore_errors=True)
