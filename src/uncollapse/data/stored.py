"""Examples that stay on disk, and are read block after block."""

from __future__ import annotations

import itertools
import math
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from uncollapse._utils.errors import DataError, FileError, InputError, LostDataError, one_line
from uncollapse._utils.random import drawing_from, random_indices

MAX_IN_MEMORY = (
    2**28
)  # bytes of a file that is read whole, where its format can also be read in parts
# Of a block, where the format has none of its own: large enough to be read in one go, small enough
# for many to be mixed.
BLOCK_BYTES = 2**19
READ_THROUGH_BYTES = 2**16  # of a file that are read in one go, though only some of them are wanted
PIECE_BYTES = 2**24  # of a block that the format makes larger, at most, at a time


class RowSource(ABC):
    """Rows of numbers that are not all in memory.

    Attributes:
        sizes: rows of each block.
        n_features: columns.
        feature_names: of the columns, where they have names.
        was_read: whether all rows have been read once, so that what cannot be read any more was
            there.
    """

    sizes: Sequence[int]
    n_features: int
    feature_names: list[str] | None = None
    was_read: bool = False

    @abstractmethod
    def blocks(self) -> Iterator[np.ndarray]:
        """All rows, piece after piece, each of shape (n, n_features), in memory of its own.

        What they draw from torch's generator is the same each time.

        Raises:
            InputError: if they cannot be read; a `LostDataError`, if that could be done before.
        """

    @abstractmethod
    def n_batches(self, batch_size: int) -> int:
        """How many batches an epoch has."""

    def __len__(self) -> int:
        return sum(self.sizes)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self), self.n_features

    @property
    def is_ordered(self) -> bool:
        """Whether the rows come all, and in the order in which they are stored."""
        return True

    def missing(self, what: Any, reason: object) -> InputError:
        """The error for rows that cannot be read: they have changed if they were there, and else
        are not as is to be expected."""
        if self.was_read:
            return lost(what, reason)
        return DataError(
            f"{what} cannot be read ({one_line(reason)}): check what its rows come from."
        )

    def tables(self) -> Iterator[np.ndarray | pd.DataFrame]:
        """The same as `blocks`, with the names of the columns where they have some."""
        names = self.feature_names
        return (
            block if names is None else pd.DataFrame(block, columns=names)
            for block in self.blocks()
        )


class StoredRows(RowSource):
    """Rows in blocks that can be read in any order."""

    @abstractmethod
    def read(self, block: int) -> Iterator[np.ndarray]:
        """The rows of a block in one piece or in several, each of shape (n, n_features), in memory
        of its own.

        Raises:
            InputError: if they cannot be read; a `LostDataError`, if that could be done before.
        """

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows in their order, piece after piece."""
        yield from drawing_from(
            0, itertools.chain.from_iterable(map(self.read, range(len(self.sizes))))
        )
        self.was_read = True

    def n_batches(self, batch_size: int) -> int:
        """How many batches an epoch has."""
        return -(-len(self) // batch_size)


class ChosenBlocks(StoredRows):
    """Some blocks of rows on disk.

    Args:
        whole: the rows.
        chosen: the numbers of those blocks, shape (n,), in their order.
    """

    def __init__(self, whole: StoredRows, chosen: np.ndarray) -> None:
        self._whole, self._chosen = whole, chosen
        self.sizes = [whole.sizes[block] for block in chosen]
        self.n_features, self.feature_names = whole.n_features, whole.feature_names

    def read(self, block: int) -> Iterator[np.ndarray]:
        """The rows of a block."""
        self._whole.was_read |= self.was_read
        return self._whole.read(self._chosen[block])

    @property
    def rows(self) -> np.ndarray:
        """Which rows of the whole these are, shape (n_rows,)."""
        ends = np.cumsum(self._whole.sizes)
        return np.concatenate(
            [
                np.arange(ends[block] - self._whole.sizes[block], ends[block])
                for block in self._chosen
            ]
        )


def split_blocks(
    rows: StoredRows, share: float, seed: int
) -> tuple[ChosenBlocks, ChosenBlocks] | None:
    """The rest, and random blocks with at most a share of the rows, and at least half of that; None
    if there are none such."""
    most, n, chosen = share * len(rows), 0, np.zeros(len(rows.sizes), bool)
    for block in random_indices(len(rows.sizes), seed=seed):
        if n + rows.sizes[block] <= most:
            n += rows.sizes[block]
            chosen[block] = True
    parts = (
        ChosenBlocks(rows, np.flatnonzero(~chosen)),
        ChosenBlocks(rows, np.flatnonzero(chosen)),
    )
    return parts if n >= most / 2 else None


def equal_blocks(n_rows: int, row_bytes: int) -> list[int]:
    """Sizes of blocks of as many bytes as can be read in one go."""
    size = max(1, BLOCK_BYTES // row_bytes)
    n_whole, rest = divmod(n_rows, size)
    return [size] * n_whole + ([rest] if rest else [])


class Fingerprint:
    """What a file looks like when its reading begins. As soon as it looks otherwise, its rows are
    others.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found = self._look()

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns, found.st_ino

    def check(self) -> None:
        """Raise `LostDataError` if the file is not what it was.

        After a read, this tells of changes before and during it.
        """
        if (now := self._look()) != self._found:
            raise lost(
                self.path, "it is gone" if now is None else "it is another than at the beginning"
            )


def lost(what: Any, reason: object) -> LostDataError:
    """The error for what could be read when it began to be."""
    return LostDataError(
        f"{what} has changed while it was read ({one_line(reason)}): put it back to go on from the "
        "last state, or begin anew."
    )


class StoredArray(StoredRows):
    """Anything on disk that has a shape and is read by slices: memory maps, data sets of HDF5, X of
    an AnnData that is backed.

    Args:
        array: of shape (n, *features).

    Raises:
        InputError: if it has no rows or no columns, holds no real numbers, or is a sparse matrix
            stored by columns.
    """

    def __init__(self, array: Any) -> None:
        if len(array.shape) < 2 or 0 in array.shape:
            raise DataError(
                f"X expects examples in rows, at least one, and a column or more, got shape "
                f"{tuple(array.shape)}."
            )
        path = path_of(array)
        if array.dtype.kind not in "biuf":
            raise DataError(
                f"{path or 'X'} holds values of type {array.dtype}: expected real numbers."
            )
        if path is not None and getattr(array, "format", None) == "csc":
            raise DataError(
                f"X expects rows that lie one after the other, got a CSC matrix in {path}: store "
                "it as CSR."
            )
        self._name, self._seal = path or "X", None if path is None else Fingerprint(path)
        self.array = FileSlices.of(array) or array
        self.n_features = int(np.prod(array.shape[1:]))
        self.sizes = equal_blocks(array.shape[0], self.n_features * array.dtype.itemsize)

    def read(self, block: int) -> Iterator[np.ndarray]:
        """The rows of a block."""
        start = block * self.sizes[0]
        dense = self[start : start + self.sizes[block]]
        yield dense.reshape(len(dense), -1)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Some rows that follow each other, shape (n, *features), in memory of their own.

        Raises:
            InputError: if they cannot be read; a `LostDataError`, if that could be done before.
        """
        if isinstance(
            self.array, np.memmap
        ):  # whose file must be as long as it was, or reading ends the process
            self._check_seal()
        try:
            piece = self.array[rows]
            dense = piece.toarray() if hasattr(piece, "toarray") else np.array(piece)
        except (OSError, RuntimeError, KeyError, ValueError) as error:  # which HDF5 raises as well
            self._check_seal()
            raise self.missing(self._name, error) from None
        if getattr(self.array, "mode", None) != "c":  # whose changes are nowhere else
            forget_pages(self.array)
        self._check_seal()
        return dense

    def _check_seal(self) -> None:
        if self._seal is not None:
            self._seal.check()

    def __getstate__(self) -> dict[str, Any]:
        """All that another process needs; what HDF5 has opened belongs to one, and is known there
        by its file and its name."""
        node: Any = getattr(self.array, "group", self.array)
        path = path_of(self.array)
        if not hasattr(node, "file") or path is None:
            return self.__dict__
        kind = None if node is self.array else type(self.array)
        return {**self.__dict__, "array": _InHDF5(path, node.name, kind)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open anew what is in HDF5."""
        self.__dict__.update(state)
        if isinstance(self.array, _InHDF5):
            self.array = self.array.open()


class _InHDF5(NamedTuple):
    """A data set of HDF5, or a group that AnnData reads as a sparse matrix of some kind."""

    path: Path
    name: str
    kind: type | None

    def open(self) -> Any:
        """The data set, or the matrix."""
        import h5py

        node = h5py.File(self.path, "r")[self.name]
        return node if self.kind is None else self.kind(node)


def on_disk(X: Any) -> StoredArray | None:
    """The rows of a memory map or of an AnnData that is backed, read from their files; None of
    anything else.

    Raises:
        InputError: if they are not numbers in rows, or lie in no order in which they can be read.
    """
    if isinstance(X, np.memmap):
        return StoredArray(X)
    if not getattr(X, "isbacked", False):
        return None
    if X.is_view:  # which AnnData reads whole
        raise DataError(
            "X expects an AnnData that is backed as its file is, got a part of one: give "
            "part.to_memory(), or write the part to a "
            "file by part.copy(filename)."
        )
    return StoredArray(X.X)


class FileSlices:
    """A memory map's numbers, read by calls that can fail: a map whose file is cut short ends the
    process.

    Args:
        path: of the file.
        offset: of the byte at which the first number begins.
        shape: of the array.
        dtype: of its numbers.
        strides: bytes from one number to the next, along each axis.
    """

    def __init__(
        self,
        path: Path,
        offset: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        strides: tuple[int, ...],
    ) -> None:
        self.path, self.offset, self.shape, self.dtype, self.strides = (
            path,
            offset,
            shape,
            dtype,
            strides,
        )

    @classmethod
    def of(cls, array: Any) -> FileSlices | None:
        """Those of a memory map, or of any view of one; None of anything else, and where the map is
        not as its file is."""
        path = path_of(array)
        if (
            not isinstance(array, np.memmap)
            or path is None
            or not path.is_file()
            or array.mode == "c"
        ):
            return None
        whole: np.ndarray = array
        while isinstance(whole.base, np.ndarray):
            whole = whole.base
        # A part of a map has the offset of the whole.
        offset = array.offset + array.ctypes.data - whole.ctypes.data
        return cls(path, offset, array.shape, array.dtype, array.strides)

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        with open(self.path, "rb", buffering=0) as file:
            return self._read(
                file, self.offset + start * self.strides[0], (stop - start, *self.shape[1:])
            )

    def _read(self, file: FileIO, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        """A part of the array that begins at a byte of the file; in smaller ones, where much more
        lies between its numbers."""
        spans = [(n - 1) * stride for n, stride in zip(shape, self.strides, strict=True)]
        n_bytes = sum(map(abs, spans)) + self.dtype.itemsize
        if n_bytes > max(READ_THROUGH_BYTES, 2 * math.prod(shape) * self.dtype.itemsize):
            axis = max(range(len(spans)), key=lambda axis: abs(spans[axis]))
            n, stride = shape[axis], self.strides[axis]
            step = (
                1 if abs(stride) > READ_THROUGH_BYTES else (n + 1) // 2
            )  # one by one, where no two are read together
            return np.concatenate(
                [
                    self._read(
                        file,
                        offset + at * stride,
                        (*shape[:axis], min(step, n - at), *shape[axis + 1 :]),
                    )
                    for at in range(0, n, step)
                ],
                axis,
            )
        first = offset + sum(span for span in spans if span < 0)
        return np.ndarray(
            shape, self.dtype, _bytes_at(file, first, n_bytes), offset - first, self.strides
        )


def _bytes_at(file: FileIO, first: int, n: int) -> bytes:
    """So many bytes of a file, which the system may give in several parts."""
    file.seek(first)
    found = part = file.read(n)
    while part and len(found) < n:
        part = file.read(n - len(found))
        found += part
    if len(found) < n:
        raise OSError("it has become shorter")
    return found


class StoredParquet(StoredRows):
    """A Parquet file, or a folder of them, whose blocks are the row groups.

    Args:
        path: of the file or the folder.
        leave_out: a column that is not read, such as the labels.

    Raises:
        InputError: if there is none, a column does not hold numbers, or files have other columns
            than the first.
    """

    def __init__(self, path: str | Path, leave_out: str | None = None) -> None:
        try:
            from pyarrow import dataset
        except ImportError:
            raise InputError(
                f"reading {path} needs pyarrow: pip install 'uncollapse[parquet]'."
            ) from None
        try:
            # An absolute path, as trials on Ray read in processes that began elsewhere; addresses
            # of stores are absolute.
            found = dataset.dataset(
                str(path) if "://" in str(path) else os.path.abspath(path), format="parquet"
            )
            self._seals = {name: Fingerprint(Path(name)) for name in found.files}
            told = {file: _told(file, found.filesystem) for file in found.files}
        except (OSError, ValueError) as error:
            raise FileError(
                f"{path} cannot be read as Parquet ({one_line(error)}): check the path."
            ) from None
        if leave_out is not None and leave_out not in found.schema.names:
            raise FileError(
                f"{path} has no column {leave_out!r}: its columns are "
                f"{', '.join(found.schema.names[:5])}, ..."
            )
        self._dataset = found
        sized = [
            (file, group, size)
            for file, (sizes, _) in told.items()
            for group, size in enumerate(sizes)
            if size
        ]
        self._groups = [(file, group) for file, group, _ in sized]
        self.sizes = [size for *_, size in sized]
        names = [name for name in found.schema.names if name != leave_out]
        self.feature_names, self.n_features = names, len(names)
        for file, (_, schema) in told.items():
            _check_names(file, schema.names, found.schema.names)
            _check_numbers(file if len(told) > 1 else path, schema, names)
        if not self.sizes or not self.n_features:
            raise FileError(
                f"{path} holds no rows or no columns of data: expected at least one of each."
            )

    def read(self, block: int) -> Iterator[np.ndarray]:
        """The rows of a block, in pieces, float64 where float32 might not hold what is in the
        file."""
        file, group = self._groups[block]
        batches = self._batches(file, group)
        while True:
            try:
                batch = next(batches, None)
            except (OSError, ValueError) as error:
                self._seals[file].check()
                raise self.missing(file, error) from None
            self._seals[file].check()
            if batch is None:
                return
            yield _as_rows(batch)

    def _batches(self, file: str, group: int) -> Iterator[Any]:
        """Batches of PyArrow, of which no more is read at a time than pages have: row groups may be
        larger than memory."""
        from pyarrow.dataset import ParquetFragmentScanOptions

        fragment = self._dataset.format.make_fragment(
            file, self._dataset.filesystem, row_groups=[group]
        )
        # in the file's own types, which may be others than those of the first
        yield from fragment.to_batches(
            schema=fragment.physical_schema,
            columns=self.feature_names,
            batch_size=max(1, PIECE_BYTES // (8 * self.n_features)),
            batch_readahead=0,
            fragment_readahead=0,
            fragment_scan_options=ParquetFragmentScanOptions(
                pre_buffer=False, use_buffered_stream=True
            ),
        )

    def column(self, name: str) -> np.ndarray:
        """A column, shape (n,), in memory."""
        files = self._dataset.get_fragments()
        return np.concatenate(
            [np.asarray(file.to_table(columns=[name])[name].to_pandas()) for file in files]
        )


def _check_names(path: str, names: list[str], expected: list[str]) -> None:
    """Raise `InputError` unless a file has the columns of the first, in whatever order."""
    other = sorted(set(names) ^ set(expected))
    if other:
        what = "without the column" if other[0] in expected else "with a column of its own,"
        raise FileError(
            f"{path} expects the columns of the first file of its folder, got one {what} "
            f"{other[0]!r}: give all files the same."
        )


def _check_numbers(path: str | Path, schema: Any, names: list[str]) -> None:
    """Raise `InputError` unless these columns hold numbers."""
    from pyarrow import types

    kinds = (types.is_integer, types.is_floating, types.is_boolean)
    text = [name for name in names if not any(kind(schema.field(name).type) for kind in kinds)]
    if text:
        raise FileError(
            f"{path} has something else than numbers in the column {text[0]!r}: remove or encode "
            "it."
        )


def _told(file: str, filesystem: Any) -> tuple[list[int], Any]:
    """Rows of each row group of a file, and its schema. What else is known of them, a kilobyte for
    each column, is let go."""
    from pyarrow.parquet import read_metadata

    found = read_metadata(file, filesystem=filesystem)
    return [
        found.row_group(group).num_rows for group in range(found.num_row_groups)
    ], found.schema.to_arrow_schema()


def _as_rows(batch: Any) -> np.ndarray:
    """A batch of PyArrow as float32, or float64 where a column needs it, gaps as NaN."""
    found = [column.to_numpy(zero_copy_only=False) for column in batch.columns]
    narrow = all(np.can_cast(column.dtype, np.float32) for column in found)
    columns = np.empty((batch.num_columns, batch.num_rows), np.float32 if narrow else np.float64)
    for place, column in zip(columns, found, strict=True):
        place[:] = column
    return np.ascontiguousarray(columns.T)


def path_of(array: Any) -> Path | None:
    """The absolute path of an array's file, as memory maps, HDF5 and matrices of AnnData tell it;
    None where they do not."""
    holder = getattr(array, "file", None) or getattr(getattr(array, "group", None), "file", array)
    name = getattr(holder, "filename", None)
    return None if name is None else Path(os.fsdecode(name)).absolute()


def forget_pages(array: Any) -> None:
    """Let go of the pages that reading a memory map has brought into the process's memory; the
    disk's cache keeps them."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    if array is not None and hasattr(array, "madvise"):
        array.madvise(mmap.MADV_DONTNEED)
