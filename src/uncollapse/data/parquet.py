"""Parquet files, read by row groups."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from uncollapse._utils.errors import FileError, InputError, one_line
from uncollapse.data.stored import Fingerprint, StoredRows

PIECE_BYTES = 2**24  # A larger row group is read in pieces of this size.


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
        groups = {
            (file, group): size
            for file, (sizes, _) in layouts.items()
            for group, size in enumerate(sizes)
            if size
        }
        self._groups, self.sizes = list(groups), list(groups.values())
        for file, (_, schema) in layouts.items():
            _check_names(file, schema.names, names)
            _check_numbers(file if len(layouts) > 1 else path, schema, self.feature_names)
        if not self.sizes or not self.n_features:
            raise FileError(f"{path} holds no rows or no columns of data.")

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
        what = "lacks the column" if different[0] in expected else "has the extra column"
        raise FileError(
            f"{path} differs from the first file of its folder: it {what} "
            f"{different[0]!r}. Give all files the same columns."
        )


def _check_numbers(path: str | Path, schema: Any, names: list[str]) -> None:
    """Raise `FileError` unless these columns hold numbers."""
    from pyarrow import types

    kinds = (types.is_integer, types.is_floating, types.is_boolean)
    for name in names:
        if not any(kind(schema.field(name).type) for kind in kinds):
            raise FileError(
                f"{path} holds no numbers in the column {name!r}: encode it, or name it as labels."
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
