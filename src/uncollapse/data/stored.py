"""Examples that stay on disk, and are read block after block."""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uncollapse.errors import InputError, one_line

MAX_IN_MEMORY = 2**28  # bytes of a file that is read whole, where its format can also be read in parts
# Of a block, where the format has none of its own: large enough to be read in one go, small enough for many to be mixed.
BLOCK_BYTES = 2**19


class StoredRows(ABC):
    """Rows of numbers in blocks.

    Attributes:
        sizes: rows of each block.
        n_features: columns.
        feature_names: of the columns, where they have names.
    """

    sizes: Sequence[int]
    n_features: int
    feature_names: list[str] | None = None

    @abstractmethod
    def read(self, block: int) -> np.ndarray:
        """The rows of a block, shape (sizes[block], n_features), in memory of their own.

        Raises:
            InputError: if they cannot be read any more.
        """

    def __len__(self) -> int:
        return sum(self.sizes)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self), self.n_features

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows in their order, block after block."""
        return (self.read(block) for block in range(len(self.sizes)))


class StoredArray(StoredRows):
    """Anything on disk that has a shape and is read by slices: memory maps, data sets of HDF5, X of an AnnData that is backed.

    Args:
        array: of shape (n, *features).
    """

    def __init__(self, array: Any) -> None:
        if len(array.shape) < 2 or 0 in array.shape:
            raise InputError(f"X expects examples in rows, at least one, and a column or more, got shape {tuple(array.shape)}.")
        self.array = array
        self.n_features = int(np.prod(array.shape[1:]))
        self._size = max(1, BLOCK_BYTES // (self.n_features * array.dtype.itemsize))
        n_whole, rest = divmod(array.shape[0], self._size)
        self.sizes = [self._size] * n_whole + ([rest] if rest else [])

    def read(self, block: int) -> np.ndarray:
        """The rows of a block."""
        start = block * self._size
        piece = self.array[start : start + self.sizes[block]]
        dense = piece.toarray() if hasattr(piece, "toarray") else np.array(piece)
        forget_pages(self.array)
        return dense.reshape(len(dense), -1)


class StoredParquet(StoredRows):
    """A Parquet file, or a folder of them, whose blocks are the row groups.

    Args:
        path: of the file or the folder.
        leave_out: a column that is not read, such as the labels.

    Raises:
        InputError: if there is none, or a column does not hold numbers.
    """

    def __init__(self, path: str | Path, leave_out: str | None = None) -> None:
        try:
            from pyarrow import dataset, types
        except ImportError:
            raise InputError(f"reading {path} needs pyarrow: pip install 'uncollapse[parquet]'.") from None
        try:
            found = dataset.dataset(str(path), format="parquet")
            groups = [group for fragment in found.get_fragments() for group in fragment.split_by_row_group()]
            sized = [(group, sum(part.num_rows for part in group.row_groups)) for group in groups]
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as Parquet ({one_line(error)}): check the path.") from None
        self.path, self._schema, self._dataset = path, found.schema, found
        if leave_out is not None and leave_out not in found.schema.names:
            raise InputError(f"{path} has no column {leave_out!r}: its columns are {', '.join(found.schema.names[:5])}, ...")
        self._groups = [group for group, size in sized if size]
        self.sizes = [size for _, size in sized if size]
        names = [name for name in found.schema.names if name != leave_out]
        self.feature_names, self.n_features = names, len(names)
        text = [
            name
            for name in names
            if not any(kind(found.schema.field(name).type) for kind in (types.is_integer, types.is_floating, types.is_boolean))
        ]
        if text:
            raise InputError(f"{path} has something else than numbers in the column {text[0]!r}: remove or encode it.")
        if not self.sizes or not self.n_features:
            raise InputError(f"{path} holds no rows or no columns of data: expected at least one of each.")

    def read(self, block: int) -> np.ndarray:
        """The rows of a block."""
        try:
            table = self._groups[block].to_table(schema=self._schema, columns=self.feature_names)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path} has changed while it was read ({one_line(error)}): begin anew.") from None
        return np.stack([np.asarray(column, dtype=np.float64) for column in table.columns], axis=1)

    def column(self, name: str) -> np.ndarray:
        """A column, shape (n,), in memory."""
        return np.asarray(self._dataset.to_table(columns=[name])[name].to_pandas())


def forget_pages(array: Any) -> None:
    """Let go of the pages that reading a memory map has brought into the process's memory; the disk's cache keeps them."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    if array is not None and hasattr(array, "madvise"):
        array.madvise(mmap.MADV_DONTNEED)
