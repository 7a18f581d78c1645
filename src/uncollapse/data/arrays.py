"""Examples from files: numbers from .npy, .npz, .csv and .parquet, documents from .txt and
.txt.gz."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipInfo

import numpy as np
import pandas as pd

from uncollapse._utils.errors import DataError, FileError, InputError, one_line
from uncollapse._utils.files import check_readable, check_unpacked, read_table
from uncollapse._utils.random import derived_seed, hold_out_indices
from uncollapse._utils.validation import check_labels
from uncollapse.data.loaders import StoredDataset
from uncollapse.data.parquet import StoredParquet, missing_pyarrow
from uncollapse.data.stored import MAX_IN_MEMORY, StoredRows, on_disk, split_blocks
from uncollapse.data.text import read_documents

# Names under which an .npz commonly holds the examples and their labels.
EXAMPLE_KEYS = ("X", "x", "data", "images", "arr_0")
LABEL_KEYS = ("y", "Y", "labels", "label", "target")
HELD_OUT_SHARE = 0.2

Parts = tuple[np.ndarray, np.ndarray | None, list[str] | None]  # examples, labels, feature names
Reader = Callable[[Path, str | None], Parts]


@dataclass(frozen=True)
class Data:
    """Examples, one in each row.

    Attributes:
        X: numbers of shape (n, d), which may stay on disk, or documents of shape (n,), as str
            objects.
        labels: shape (n,), or None. They are never used in training.
        name: name of the data.
        feature_names: names of the columns, or None.
        image_shape: (height, width) if each row is an image.
        defaults: arguments of the estimators that suit these data.
    """

    X: Any  # an array, or `StoredRows`
    labels: np.ndarray | None = None
    name: str = "data"
    feature_names: list[str] | None = None
    image_shape: tuple[int, int] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_text(self) -> bool:
        """Whether the examples are documents."""
        return not isinstance(self.X, StoredRows) and self.X.dtype == object

    def take(self, rows: np.ndarray) -> Data:
        """Return some of the examples, which must be in memory."""
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, X=self.X[rows], labels=labels)

    def hold_out(self) -> tuple[Data, Data]:
        """Return four fifths of the examples, and the others, always the same random ones.

        Of large files, whole blocks are held out.

        Raises:
            DataError: if there are fewer than 10 examples, the blocks of a file are too large, or
                the examples are a data set of PyTorch.
        """
        seed = derived_seed(0, "test")
        if isinstance(self.X, StoredRows):
            return self._hold_out_stored(self.X, seed)
        if len(self.X) < 10:
            raise DataError(
                f"{self.name} expects at least 10 examples to hold out a fifth of them, got "
                f"{len(self.X)}."
            )
        n_held_out = round(HELD_OUT_SHARE * len(self.X))
        kept, held_out = hold_out_indices(len(self.X), n_held_out, seed)
        return self.take(np.sort(kept)), self.take(np.sort(held_out))

    def _hold_out_stored(self, stored: StoredRows, seed: int) -> tuple[Data, Data]:
        if isinstance(stored, StoredDataset):  # Its items may be drawn anew each time.
            raise DataError(
                "a data set is not split: give the parts of torch.utils.data.random_split as X and "
                "held_out."
            )
        if 8 * stored.n_features * len(stored) <= MAX_IN_MEMORY:
            return replace(self, X=np.concatenate(list(stored.blocks()))).hold_out()
        parts = split_blocks(stored, HELD_OUT_SHARE, seed)
        if parts is None:
            raise DataError(
                f"{self.name} expects blocks on disk (row groups of Parquet) small enough to hold "
                f"out a fifth of the rows, got {len(stored.sizes)} of up to "
                f"{max(stored.sizes):,} rows: write smaller ones."
            )
        kept, held_out = (
            replace(self, X=part, labels=None if self.labels is None else self.labels[part.rows])
            for part in parts
        )
        return kept, held_out

    def table(self) -> Any:
        """Return the examples, as a table if they are in memory and their columns have names."""
        if isinstance(self.X, StoredRows) or self.feature_names is None:
            return self.X
        return pd.DataFrame(self.X, columns=self.feature_names)


def are_documents(X: Any) -> bool:
    """Return whether X holds strings, or sequences of tokens of different lengths."""
    if not isinstance(X, list | tuple | np.ndarray | pd.Series):
        return False
    rows = list(X)
    return bool(rows) and (isinstance(rows[0], str) or len({np.size(row) for row in rows}) > 1)


def read_file(path: str | Path, labels: str | None = None) -> Data:
    """Read examples from a file. Nothing in it can be executed.

    Args:
        path: .npy or .npz (arrays whose first axis counts examples), .csv or .parquet (numeric
            columns), .txt or .txt.gz (one document a line, UTF-8), or a folder of .parquet files.
            The folder, and a .npy beyond 256 MB, stay on disk.
        labels: the column, or the array of an .npz, that holds labels instead of data.

    Raises:
        FileError: if the file is missing, empty, damaged, of another format or larger than memory,
            or does not hold numbers in named columns, or lines of text.
        DataError: if some examples have no label.
    """
    path = Path(path)
    if os.path.isdir(path):  # Path.is_dir fails for impossible names.
        return _read_folder(path, labels)
    ending = ending_of(path)
    if ending is None:
        raise FileError(
            f"data expect a file that ends in {', '.join(READERS)}, or the name of a data set, got "
            f"{str(path)!r}."
        )
    check_readable(path, in_parts=ending in READ_IN_PARTS)
    if path.stat().st_size == 0:
        raise FileError(f"{path} is empty (0 bytes): expected a {ending} file with examples.")
    try:
        X, y, names = READERS[ending](path, labels)
    except InputError:
        raise
    except Exception as error:  # The readers of foreign formats fail in many ways.
        raise _damaged(path, ending, error) from None
    # The name becomes part of paths and pages, so it must not be ".." nor hold undecodable bytes.
    name = path.name.removesuffix(ending).strip(".").encode(errors="replace").decode() or "data"
    if X.dtype == object:
        return Data(X, name=name)
    _check_examples(path, X, y)
    image_shape = (X.shape[1], X.shape[2]) if X.ndim == 3 else None
    stored = on_disk(X)
    return Data(X.reshape(len(X), -1) if stored is None else stored, y, name, names, image_shape)


def _check_examples(path: Path, X: np.ndarray, y: np.ndarray | None) -> None:
    if y is not None and y.shape != X.shape[:1]:
        raise FileError(
            f"{path} holds an array of shape {X.shape} with labels of shape {y.shape}: expected a "
            "label for each example."
        )
    if y is not None:
        check_labels(y, f"the labels of {path}")
    if X.ndim < 2 or X.size == 0:
        raise FileError(
            f"{path} holds an array of shape {X.shape}: expected rows with at least one column."
        )
    if X.dtype.kind not in "biuf":
        raise FileError(f"{path} holds values of type {X.dtype}: expected real numbers.")


def _read_folder(path: Path, labels: str | None) -> Data:
    """Read a folder of Parquet files, which stays on disk."""
    if not any(path.rglob("*.parquet")):
        raise FileError(
            f"{path} is a folder without Parquet files: give a file, or a folder of such files."
        )
    stored = StoredParquet(path, leave_out=labels)
    y = None if labels is None else stored.column(labels)
    if y is not None:
        check_labels(y, f"the labels of {path}")
    return Data(stored, y, path.resolve().name.removesuffix(".parquet"), stored.feature_names)


def ending_of(path: Path) -> str | None:
    """Return the ending of `READERS` that a file has, such as ".txt.gz", or None."""
    name = path.name
    return next((ending for ending in READERS if name.endswith(ending) and name != ending), None)


def _read_npy(path: Path, labels: str | None) -> Parts:
    if labels is not None:
        raise FileError(
            f"{path} is one array and has no part named {labels!r}: save both together as .npz."
        )
    is_large = path.stat().st_size > MAX_IN_MEMORY
    array = np.load(path, mmap_mode="r" if is_large else None, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise FileError(f"{path} is an archive of arrays: expected one array; rename it to .npz.")
    return array, None, None


def _read_npz(path: Path, labels: str | None) -> Parts:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        raise FileError(f"{path} is one array: expected an archive of arrays; rename it to .npy.")
    with loaded as archive:
        key, label_key = _choose_arrays(path, list(archive), labels)
        wanted = (key, label_key)
        members = archive.zip.infolist()
        _check_members(
            path, [item for item in members if item.filename.removesuffix(".npy") in wanted]
        )
        y = None if label_key is None else np.asarray(archive[label_key])
        return np.asarray(archive[key]), y, None


def _choose_arrays(path: Path, keys: list[str], labels: str | None) -> tuple[str, str | None]:
    """Return the names of the arrays with the examples and with the labels."""
    label_key = labels or next((key for key in LABEL_KEYS if key in keys), None)
    if labels is not None and labels not in keys:
        raise FileError(f"{path} has no array named {labels!r}: it holds {_list_names(keys)}.")
    others = [key for key in keys if key != label_key]
    if len(others) == 1:
        return others[0], label_key
    key = next((key for key in EXAMPLE_KEYS if key in others), None)
    if key is None:
        raise FileError(
            f"{path} holds the arrays {_list_names(keys) or '(none)'}: name one of them X."
        )
    return key, label_key


def _check_members(path: Path, members: list[ZipInfo]) -> None:
    """Raise `FileError` for members of an archive that could fill the memory."""
    # zipfile does not bound what other compressions unpack to.
    if any(member.compress_type not in (ZIP_STORED, ZIP_DEFLATED) for member in members):
        raise FileError(
            f"{path} is not packed as numpy does it: save it by numpy.savez_compressed."
        )
    check_unpacked(path, sum(member.file_size for member in members))


def _damaged(path: Path, ending: str, error: Exception) -> InputError:
    message = str(error)
    if "Object arrays" in message or "Python objects" in message:  # numpy's words, of memory maps
        return FileError(
            f"{path} holds Python objects, which are not loaded because they could run code."
        )
    reason = one_line(error) or type(error).__name__
    if "allow_pickle" in message:  # numpy's advice for files that are not its own
        reason = "it does not begin as numpy's files"
    return FileError(
        f"{path} cannot be read as {ending} ({reason}): it may be damaged or of another format."
    )


def _read_csv(path: Path, labels: str | None) -> Parts:
    first_line = read_table(path, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0]
    first = [str(cell) for cell in first_line]
    if _is_example(first):
        _warn(f"{path} has no header: its first line is read as an example.")
        return _split_frame(_read_strictly(path, header=None), path, labels, named=False)
    _check_distinct(path, first)
    frame = _read_strictly(path)
    if first[0] == "" and len(frame) and np.array_equal(frame.iloc[:, 0], np.arange(len(frame))):
        _warn(f"the first column of {path} has no name and counts the rows: it was left out.")
        frame = frame.iloc[:, 1:]
    return _split_frame(frame, path, labels)


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=5)


def _is_example(cells: list[str]) -> bool:
    """Return whether a first line holds data instead of names.

    Names may be whole numbers: years, or the count 0, 1, ... that pandas writes where there are no
    names. A line of numbers and gaps is data, and so is one with a decimal fraction among other
    things.
    """
    if len(cells) > 1 and cells == [str(index) for index in range(len(cells))]:
        return False
    numbers = [cell for cell in cells if _is_number(cell)]
    n_gaps = sum(cell.strip().lower() in ("", "na", "nan", "null", "none") for cell in cells)
    return bool(numbers) and (
        len(numbers) + n_gaps == len(cells) or any("." in cell for cell in numbers)
    )


def _read_strictly(path: Path, header: int | None = 0) -> pd.DataFrame:
    """Read a table in which every line has as many cells as the first."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return read_table(path, header=header, low_memory=False)


def _read_parquet(path: Path, labels: str | None) -> Parts:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise missing_pyarrow(path) from None
    with ParquetFile(path) as file:
        names = file.schema_arrow.names
        check_unpacked(path, 8 * len(names) * file.metadata.num_rows)
    _check_distinct(path, names)
    return _split_frame(pd.read_parquet(path), path, labels)


def _split_frame(frame: pd.DataFrame, path: Path, labels: str | None, named: bool = True) -> Parts:
    frame.columns = frame.columns.map(str)
    if labels is not None and labels not in frame:
        raise FileError(
            f"{path} has no column {labels!r}: its columns are {_list_names(list(frame.columns))}."
        )
    y = None if labels is None else frame.pop(labels).to_numpy()
    if frame.empty:
        raise FileError(f"{path} holds no rows or no columns of data.")
    text = [name for name, column in frame.items() if not _is_numeric(column)]
    if text:
        raise FileError(
            f"{path} has text where numbers belong, in {_list_names(text)}: remove or encode these "
            "columns, or name one as labels (--labels)."
        )
    X = frame.apply(_to_floats).to_numpy(dtype=np.float64)
    return X, y, list(frame.columns) if named else None


def _to_floats(column: pd.Series[Any]) -> pd.Series[Any]:
    if pd.api.types.is_numeric_dtype(column):
        return column
    return column.map(lambda cell: float(str(cell)))


def _is_numeric(column: pd.Series[Any]) -> bool:
    """Return whether a column holds numbers; pandas reads those beyond 64 bits as text or int."""
    return pd.api.types.is_numeric_dtype(column) or all(_is_number(cell) for cell in column)


def _check_distinct(path: Path, names: list[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise FileError(
            f"{path} expects a name for each column, got more than one that is called "
            f"{_list_names(repeated)}: rename them."
        )


def _read_text(path: Path, labels: str | None) -> Parts:
    if labels is not None:
        raise FileError(
            f"{path} holds documents and has no part named {labels!r}: leave the labels out."
        )
    return read_documents(path), None, None


def _list_names(names: list[Any]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return "_" not in str(text)  # Python's own numbers may hold underscores.


READ_IN_PARTS = (".npy",)  # Large files of these formats stay on disk.
READERS: dict[str, Reader] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
    ".txt.gz": _read_text,
}
