"""Rows that stay on disk and are read block by block."""

from __future__ import annotations

import itertools
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from uncollapse._utils.errors import DataError, FileError, InputError, LostDataError, one_line
from uncollapse._utils.random import drawing_from, random_indices

# Files up to this size are read whole, also where their format can be read in parts.
MAX_IN_MEMORY = 2**28
# Size of a block where the format has none: large to be read fast, small so that many are mixed.
BLOCK_BYTES = 2**19
# Larger blocks, such as the row groups of a Parquet file, are read in pieces of this size.
PIECE_BYTES = 2**24


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
        names = self.feature_names
        return (
            block if names is None else pd.DataFrame(block, columns=names)
            for block in self.blocks()
        )


class StoredRows(RowSource):
    """Rows in blocks that can be read in any order."""

    @abstractmethod
    def read(self, block: int) -> Iterator[np.ndarray]:
        """Yield the rows of a block in one or more pieces of shape (n, n_features).

        Raises:
            DataError: if they cannot be read; a `LostDataError` if they could be read before.
        """

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all rows in their order, piece by piece."""
        pieces = itertools.chain.from_iterable(map(self.read, range(len(self.sizes))))
        yield from drawing_from(0, pieces)
        self.was_read = True

    def n_batches(self, batch_size: int) -> int:
        """Return the number of batches in an epoch."""
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
        """Yield the rows of a block."""
        self._whole.was_read |= self.was_read
        return self._whole.read(self._chosen[block])

    @property
    def rows(self) -> np.ndarray:
        """Indices of these rows among all rows, shape (n_rows,)."""
        return np.flatnonzero(
            np.repeat(np.isin(np.arange(len(self._whole.sizes)), self._chosen), self._whole.sizes)
        )


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
        path: path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._expected = self._look()

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self.path)
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
        raise lost_data(self.path, "it is another than at the beginning")


def lost_data(name: Any, reason: object) -> LostDataError:
    """Return the error for rows that could be read before."""
    return LostDataError(
        f"{name} has changed while it was read ({one_line(reason)}): put it back to go on from the "
        "last state, or begin anew."
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
            raise DataError(
                f"X expects examples in rows, at least one, and a column or more, got shape "
                f"{tuple(array.shape)}."
            )
        path = _path_of(array)
        if array.dtype.kind not in "biuf":
            raise DataError(
                f"{path or 'X'} holds values of type {array.dtype}: expected real numbers."
            )
        if path is not None and getattr(array, "format", None) == "csc":
            raise DataError(
                f"X expects a sparse matrix stored by rows, got a CSC matrix in {path}: store it "
                "as CSR."
            )
        self._name, self._fingerprint = path or "X", None if path is None else Fingerprint(path)
        self.array = array
        self.n_features = int(np.prod(array.shape[1:]))
        self.sizes = equal_blocks(array.shape[0], self.n_features * array.dtype.itemsize)

    def read(self, block: int) -> Iterator[np.ndarray]:
        """Yield the rows of a block."""
        start = block * self.sizes[0]
        dense = self[start : start + self.sizes[block]]
        yield dense.reshape(len(dense), -1)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return consecutive rows, shape (n, *features), in memory of their own.

        Raises:
            DataError: if they cannot be read; a `LostDataError` if they could be read before.
        """
        self._check_fingerprint()
        try:
            piece = self.array[rows]
            dense = piece.toarray() if hasattr(piece, "toarray") else np.array(piece)
        except (OSError, RuntimeError, KeyError, ValueError) as error:  # HDF5 raises all of these.
            self._check_fingerprint()
            raise self.read_error(self._name, error) from None
        if getattr(self.array, "mode", None) != "c":  # Changes to such a map are in memory alone.
            _forget_pages(self.array)
        self._check_fingerprint()
        return dense

    def _check_fingerprint(self) -> None:
        if self._fingerprint is not None:
            self._fingerprint.check()

    def __getstate__(self) -> dict[str, Any]:
        """Replace an open file by its path, so that another process can open it."""
        return {**self.__dict__, "array": _as_reference(self.array)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.array, _InHDF5 | _InMap):
            self.array = self.array.open()


class _InHDF5(NamedTuple):
    """A data set of HDF5, or a group that AnnData reads as a sparse matrix of some kind."""

    path: Path
    name: str
    kind: type | None

    def open(self) -> Any:
        import h5py

        node = h5py.File(self.path, "r")[self.name]
        return node if self.kind is None else self.kind(node)


class _InMap(NamedTuple):
    """A contiguous part of a memory map."""

    path: Path
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    order: Literal["C", "F"]

    def open(self) -> Any:
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape, self.order)


def _as_reference(array: Any) -> Any:
    """Return where an array lies, if that says all about it, and else the array."""
    path, node = _path_of(array), getattr(array, "group", array)
    if path is not None and hasattr(node, "file"):
        return _InHDF5(path, node.name, None if node is array else type(array))
    is_map = isinstance(array, np.memmap) and array.mode != "c"
    if path is None or not is_map or not array.flags.forc:
        return array
    whole = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    offset = array.offset + array.ctypes.data - whole.ctypes.data  # A view has its map's offset.
    order: Literal["C", "F"] = "C" if array.flags.c_contiguous else "F"
    return _InMap(path, array.dtype, offset, array.shape, order)


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
            "X expects an AnnData that is backed as its file is, got a part of one: give "
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


class StoredParquet(StoredRows):
    """A Parquet file, or a folder of them. The blocks are the row groups.

    Args:
        path: path of the file or the folder.
        leave_out: name of a column that is not read, such as the labels.

    Raises:
        FileError: if there is no such file, a column does not hold numbers, or the files of a
            folder have different columns.
    """

    def __init__(self, path: str | Path, leave_out: str | None = None) -> None:
        try:
            from pyarrow import dataset
        except ImportError:
            raise missing_pyarrow(path) from None
        # The path is made absolute, as trials on Ray read in other folders. URLs stay as they are.
        place = str(path) if "://" in str(path) else os.path.abspath(path)
        try:
            self._dataset = dataset.dataset(place, format="parquet")
            names, files = self._dataset.schema.names, self._dataset.files
            self._fingerprints = {file: Fingerprint(Path(file)) for file in files}
            layouts = {file: _layout(file, self._dataset.filesystem) for file in files}
        except (OSError, ValueError) as error:
            raise FileError(
                f"{path} cannot be read as Parquet ({one_line(error)}): check the path."
            ) from None
        if leave_out is not None and leave_out not in names:
            raise FileError(
                f"{path} has no column {leave_out!r}: its columns are {', '.join(names[:5])}, ..."
            )
        self.feature_names = [name for name in names if name != leave_out]
        self.n_features = len(self.feature_names)
        groups = [
            (file, group, size)
            for file, (sizes, _) in layouts.items()
            for group, size in enumerate(sizes)
            if size
        ]
        self._groups = [(file, group) for file, group, _ in groups]
        self.sizes = [size for *_, size in groups]
        for file, (_, schema) in layouts.items():
            _check_names(file, schema.names, names)
            _check_numbers(file if len(layouts) > 1 else path, schema, self.feature_names)
        if not self.sizes or not self.n_features:
            raise FileError(
                f"{path} holds no rows or no columns of data: expected at least one of each."
            )

    def read(self, block: int) -> Iterator[np.ndarray]:
        """Yield the rows of a block in pieces, as float64 where float32 might not hold the
        values."""
        file, group = self._groups[block]
        batches = self._batches(file, group)
        while True:
            try:
                batch = next(batches, None)
            except (OSError, ValueError) as error:
                self._fingerprints[file].check()
                raise self.read_error(file, error) from None
            self._fingerprints[file].check()
            if batch is None:
                return
            yield _as_rows(batch)

    def _batches(self, file: str, group: int) -> Iterator[Any]:
        """Yield the rows of a row group without reading ahead, as it may be larger than memory."""
        from pyarrow.dataset import ParquetFragmentScanOptions

        fragment = self._dataset.format.make_fragment(
            file, self._dataset.filesystem, row_groups=[group]
        )
        yield from fragment.to_batches(
            schema=fragment.physical_schema,  # The types of the first file may be others.
            columns=self.feature_names,
            batch_size=max(1, PIECE_BYTES // (8 * self.n_features)),
            batch_readahead=0,
            fragment_readahead=0,
            fragment_scan_options=ParquetFragmentScanOptions(
                pre_buffer=False, use_buffered_stream=True
            ),
        )

    def column(self, name: str) -> np.ndarray:
        """Return a column, shape (n,), in memory."""
        files = self._dataset.get_fragments()
        return np.concatenate(
            [np.asarray(file.to_table(columns=[name])[name].to_pandas()) for file in files]
        )


def missing_pyarrow(path: str | Path) -> InputError:
    """Return the error for a Parquet file without the package that reads it."""
    return InputError(f"reading {path} needs pyarrow: pip install 'uncollapse[parquet]'.")


def _check_names(path: str, names: list[str], expected: list[str]) -> None:
    """Raise `FileError` unless a file has the columns of the first one, in any order."""
    different = sorted(set(names) ^ set(expected))
    if different:
        what = "without the column" if different[0] in expected else "with a column of its own,"
        raise FileError(
            f"{path} expects the columns of the first file of its folder, got one {what} "
            f"{different[0]!r}: give all files the same."
        )


def _check_numbers(path: str | Path, schema: Any, names: list[str]) -> None:
    """Raise `FileError` unless these columns hold numbers."""
    from pyarrow import types

    kinds = (types.is_integer, types.is_floating, types.is_boolean)
    for name in names:
        if not any(kind(schema.field(name).type) for kind in kinds):
            raise FileError(
                f"{path} has something else than numbers in the column {name!r}: remove or encode "
                "it."
            )


def _layout(file: str, filesystem: Any) -> tuple[list[int], Any]:
    """Return the sizes of a file's row groups, and its schema.

    The rest of the metadata, a kilobyte for each column, is not kept.
    """
    from pyarrow.parquet import read_metadata

    found = read_metadata(file, filesystem=filesystem)
    sizes = [found.row_group(group).num_rows for group in range(found.num_row_groups)]
    return sizes, found.schema.to_arrow_schema()


def _as_rows(batch: Any) -> np.ndarray:
    """Return a batch of PyArrow as float32, or as float64 where a column needs it, gaps as NaN."""
    found = [column.to_numpy(zero_copy_only=False) for column in batch.columns]
    narrow = all(np.can_cast(column.dtype, np.float32) for column in found)
    columns = np.empty((batch.num_columns, batch.num_rows), np.float32 if narrow else np.float64)
    for place, column in zip(columns, found, strict=True):
        place[:] = column
    return np.ascontiguousarray(columns.T)
