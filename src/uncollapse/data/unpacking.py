"""Compressed files, refused where they would unpack to more than memory can hold."""

from __future__ import annotations

import gzip
from pathlib import Path

from uncollapse._utils.errors import FileError
from uncollapse._utils.files import check_fits_memory

# gzip shrinks zeros to a thousandth, and binary images in float64 to a hundredth.
MAX_GROWTH = 200
UNSUSPECTED_BYTES = 2**30
BYTES_AT_ONCE = 2**20


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
        while piece := file.read(BYTES_AT_ONCE):  # The size is counted before anything is kept.
            n_bytes += len(piece)
            check_unpacked(path, n_bytes)
    return gzip.decompress(path.read_bytes())
