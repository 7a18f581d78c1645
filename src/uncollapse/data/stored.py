"""Rows that stay on disk and are read block by block."""

import itertools
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from uncollapse._utils.errors import DataError, LostDataError, one_line
from uncollapse._utils.random import drawing_from, random_indices

# Files up to this size are read whole, also where their format can be read in parts.
MAX_IN_MEMORY = 2**28
# Size of a block where the format has none: large to be read fast, small so that many are mixed.
BLOCK_BYTES = 2**19


class RowSource(ABC):
    """Rows of numbers that are not all in memory.

    Attributes:
        sizes: number of rows of each block.
        n_features: number of columns.
        feature_names: names of the columns, or None.
        was_read: whether all rows have been read once. A later failure to read is then a
            `LostDataError`.
    """

    sizes: Sequence[int]
    n_features: int
    feature_names: list[str] | None = None
    was_read: bool = False

    @abstractmethod
    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all rows in pieces of shape (n, n_features), each in memory of its own.

        Random numbers that are drawn from torch's generator on the way are the same each time.

        Raises:
            DataError: if rows cannot be read; a `LostDataError` if they could be read before.
        """

    @abstractmethod
    def n_batches(self, batch_size: int) -> int:
        """Return the number of batches in an epoch."""

    def __len__(self) -> int:
        return sum(self.sizes)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""
        return len(self), self.n_features

    @property
    def is_ordered(self) -> bool:
        """Whether all rows come, in the order in which they are stored."""
        return True

    def read_error(self, name: Any, reason: object) -> DataError:
        """Return the error for rows that cannot be read."""
        if self.was_read:
            return lost_data(name, reason)
        return DataError(
            f"{name} cannot be read ({one_line(reason)}): check what its rows come from."
        )

    def tables(self) -> Iterator[np.ndarray | pd.DataFrame]:
        """Yield the pieces of `blocks`, as tables where the columns have names."""
        for block in self.blocks():
            named = self.feature_names
            yield block if named is None else pd.DataFrame(block, columns=named)


class StoredRows(RowSource):
    """Rows in blocks that can be read in any order; `blocks` yields them as they are stored."""

    @abstractmethod
    def read(self, block: int) -> Iterator[np.ndarray]:
        """Yield the rows of a block in one or more pieces of shape (n, n_features)."""

    def blocks(self) -> Iterator[np.ndarray]:
        pieces = itertools.chain.from_iterable(map(self.read, range(len(self.sizes))))
        yield from drawing_from(0, pieces)
        self.was_read = True

    def n_batches(self, batch_size: int) -> int:
        return -(-len(self) // batch_size)


class BlockSubset(StoredRows):
    """Some blocks of rows on disk.

    Args:
        whole: the rows.
        chosen: indices of the blocks, in ascending order.
    """

    def __init__(self, whole: StoredRows, chosen: np.ndarray) -> None:
        self._whole, self._chosen = whole, chosen
        self.sizes = [whole.sizes[block] for block in chosen]
        self.n_features, self.feature_names = whole.n_features, whole.feature_names

    def read(self, block: int) -> Iterator[np.ndarray]:
        self._whole.was_read |= self.was_read
        return self._whole.read(self._chosen[block])

    @property
    def rows(self) -> np.ndarray:
        """Indices of these rows among all rows, shape (n_rows,)."""
        sizes = self._whole.sizes
        return np.flatnonzero(np.repeat(np.isin(np.arange(len(sizes)), self._chosen), sizes))


def split_blocks(
    rows: StoredRows, share: float, seed: int
) -> tuple[BlockSubset, BlockSubset] | None:
    """Hold out random blocks with at most this share of the rows.

    Returns:
        The kept and the held-out blocks. None if the blocks are too large to hold out even half of
        the share.
    """
    most, n, is_chosen = share * len(rows), 0, np.zeros(len(rows.sizes), bool)
    for block in random_indices(len(rows.sizes), seed=seed):
        if n + rows.sizes[block] <= most:
            n += rows.sizes[block]
            is_chosen[block] = True
    if n < most / 2:
        return None
    kept, held_out = (BlockSubset(rows, np.flatnonzero(part)) for part in (~is_chosen, is_chosen))
    return kept, held_out


def equal_blocks(n_rows: int, row_bytes: int) -> list[int]:
    """Return the sizes of blocks of `BLOCK_BYTES` each."""
    size = max(1, BLOCK_BYTES // row_bytes)
    n_whole, rest = divmod(n_rows, size)
    return [size] * n_whole + ([rest] if rest else [])


class Fingerprint:
    """Size, time of change and inode of a file, by which a changed file is noticed.

    Args:
        path: path of the file, or None for rows without a file, which never change.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._expected = self._look()

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self.path or "")
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns, found.st_ino

    def check(self) -> None:
        """Raise `LostDataError` if the file has changed since it was opened."""
        if (found := self._look()) == self._expected:
            return
        if found is None:
            raise lost_data(self.path, "it is gone")
        if self._expected is not None and found[0] < self._expected[0]:
            raise lost_data(self.path, "it has become shorter")
        raise lost_data(self.path, "it is another file, or was rewritten")


def lost_data(name: Any, reason: object) -> LostDataError:
    """Return the error for rows that could be read before."""
    return LostDataError(
        f"{name} has changed while it was read ({one_line(reason)}): put it back to resume from "
        "the last state, or start again."
    )


class StoredArray(StoredRows):
    """An array on disk that is read by slices: a memory map, a data set of HDF5, or X of a backed
    AnnData.

    The size of the file is checked before and after each read, because reading a memory map beyond
    the end of its file would end the process.

    Args:
        array: array of shape (n, *features).

    Raises:
        DataError: if it has no rows or no columns, holds no real numbers, or is a sparse matrix
            stored by columns.
    """

    def __init__(self, array: Any) -> None:
        if len(array.shape) < 2 or 0 in array.shape:
            raise DataError(f"X expects rows and columns, got shape {tuple(array.shape)}.")
        path = _path_of(array)
        if array.dtype.kind not in "biuf":
            raise DataError(
                f"{path or 'X'} holds values of type {array.dtype}: expected real numbers."
            )
        if path is not None and getattr(array, "format", None) == "csc":
            raise DataError(f"X expects a CSR matrix, got a CSC matrix in {path}: store it as CSR.")
        self.array, self._name, self._fingerprint = array, path or "X", Fingerprint(path)
        self.n_features = int(np.prod(array.shape[1:]))
        self.sizes = equal_blocks(array.shape[0], self.n_features * array.dtype.itemsize)

    def read(self, block: int) -> Iterator[np.ndarray]:
        start = block * self.sizes[0]
        dense = self[start : start + self.sizes[block]]
        yield dense.reshape(len(dense), -1)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return consecutive rows, shape (n, *features), in memory of their own."""
        self._fingerprint.check()
        try:
            piece = self.array[rows]
            dense = piece.toarray() if hasattr(piece, "toarray") else np.array(piece)
        except (OSError, RuntimeError, KeyError, ValueError) as error:  # HDF5 raises all of these.
            self._fingerprint.check()
            raise self.read_error(self._name, error) from None
        if getattr(self.array, "mode", None) != "c":  # Changes to such a map are in memory alone.
            _forget_pages(self.array)
        self._fingerprint.check()
        return dense

    def __getstate__(self) -> dict[str, Any]:
        """Replace an open file by its path, so that another process can open it."""
        return {**self.__dict__, "array": _opener(self.array)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.array, partial):
            self.array = self.array()


def _opener(array: Any) -> Any:
    """Return a function that reopens an array on disk; the array itself if that is impossible."""
    path, node = _path_of(array), getattr(array, "group", array)
    if path is not None and hasattr(node, "file"):
        return partial(_open_hdf5, path, node.name, None if node is array else type(array))
    is_map = isinstance(array, np.memmap) and array.mode != "c"
    if path is None or not is_map or not array.flags.forc:
        return array
    whole = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    offset = array.offset + array.ctypes.data - whole.ctypes.data  # A view has its map's offset.
    order: Any = "C" if array.flags.c_contiguous else "F"
    return partial(np.memmap, path, array.dtype, "r", offset, array.shape, order)


def _open_hdf5(path: Path, name: str, kind: type | None) -> Any:
    """Open a data set of HDF5, or a group that AnnData reads as a sparse matrix of some kind."""
    import h5py

    node = h5py.File(path, "r")[name]
    return node if kind is None else kind(node)


def on_disk(X: Any) -> StoredArray | None:
    """Return the rows of a memory map or of a backed AnnData, and None for anything else.

    Raises:
        DataError: if they are not numbers in rows, or cannot be read in their order.
    """
    if isinstance(X, np.memmap):
        return StoredArray(X)
    if not getattr(X, "isbacked", False):
        return None
    if X.is_view:  # AnnData would read a view whole.
        raise DataError(
            "X expects a whole backed AnnData, got a view (here `part`) of one: give "
            "part.to_memory(), or write the part to a file by part.copy(filename)."
        )
    return StoredArray(X.X)


def _path_of(array: Any) -> Path | None:
    """Return the absolute path of the file of a memory map or an array in HDF5, or None."""
    holder = getattr(array, "file", None) or getattr(getattr(array, "group", None), "file", array)
    name = getattr(holder, "filename", None)
    return None if name is None else Path(os.fsdecode(name)).absolute()


def _forget_pages(array: Any) -> None:
    """Release the pages of a memory map from the process; the system's cache keeps them."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    if array is not None and hasattr(array, "madvise"):
        array.madvise(mmap.MADV_DONTNEED)
