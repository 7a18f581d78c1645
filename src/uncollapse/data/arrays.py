"""Examples from files: .npy, .npz, .csv and .parquet hold numbers, .txt and .txt.gz documents."""

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
from uncollapse._utils.files import check_readable, read_table
from uncollapse._utils.random import derived_seed, hold_out_indices
from uncollapse._utils.validation import check_labels
from uncollapse.data.loaders import StoredDataset
from uncollapse.data.stored import MAX_IN_MEMORY, StoredParquet, StoredRows, on_disk, split_blocks
from uncollapse.data.text import read_documents
from uncollapse.data.unpacking import check_unpacked

# Names under which an .npz commonly holds the examples and their labels.
EXAMPLE_KEYS = ("X", "x", "data", "images", "arr_0")
LABEL_KEYS = ("y", "Y", "labels", "label", "target")
HELD_OUT_SHARE = 0.2


# Examples, labels, and the names of the features.
Parts = tuple[np.ndarray, np.ndarray | None, list[str] | None]
Reader = Callable[[Path, str | None], Parts]


@dataclass(frozen=True)
class Data:
    """Examples, one a row.

    Attributes:
        X: numbers of shape (n, d), which may stay on disk, or documents of shape (n,), as str
            objects.
        labels: shape (n,), or None. Never used in training.
        name: what to call the data.
        feature_names: of the columns, where they have names.
        image_shape: (height, width) where a row is an image.
        defaults: arguments of the estimators that suit these data.
    """

    X: Any  # an array; `StoredRows` where they stay on disk
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
        """Some of the examples, which are in memory."""
        return replace(
            self, X=self.X[rows], labels=None if self.labels is None else self.labels[rows]
        )

    def hold_out(self) -> tuple[Data, Data]:
        """Four fifths of the examples and the rest, always the same random ones; of large files, of
        their blocks.

        Raises:
            InputError: if there are fewer than 10, or blocks of a file are too large, or they are
                not in a file and not in memory.
        """
        seed = derived_seed(0, "test")
        if isinstance(self.X, StoredRows):
            return self._hold_out_stored(self.X, seed)
        if len(self.X) < 10:
            raise DataError(
                f"{self.name} expects at least 10 examples, of which a fifth is held out, got "
                f"{len(self.X)}."
            )
        n_held_out = round(HELD_OUT_SHARE * len(self.X))
        kept, held_out = hold_out_indices(len(self.X), n_held_out, seed)
        return self.take(np.sort(kept)), self.take(np.sort(held_out))

    def _hold_out_stored(self, stored: StoredRows, seed: int) -> tuple[Data, Data]:
        if isinstance(stored, StoredDataset):  # whose items may be drawn anew each time
            raise DataError(
                "a data set is not split: give the parts of torch.utils.data.random_split as X and "
                "held_out."
            )
        if 8 * stored.n_features * len(stored) <= MAX_IN_MEMORY:
            return replace(self, X=np.concatenate(list(stored.blocks()))).hold_out()
        parts = split_blocks(stored, HELD_OUT_SHARE, seed)
        if parts is None:
            raise DataError(
                f"{self.name} expects blocks on disk (row groups of Parquet) of which some hold "
                "about a fifth of the rows, got "
                f"{len(stored.sizes)} of up to {max(stored.sizes):,} rows: write smaller ones."
            )
        labels = [None if self.labels is None else self.labels[part.rows] for part in parts]
        kept, rest = (
            replace(self, X=part, labels=y) for part, y in zip(parts, labels, strict=True)
        )
        return kept, rest

    def table(self) -> np.ndarray | pd.DataFrame | StoredRows:
        """The examples, with the names of their features where there are any."""
        if isinstance(self.X, StoredRows):
            return self.X
        return (
            self.X
            if self.feature_names is None
            else pd.DataFrame(self.X, columns=self.feature_names)
        )


def are_documents(X: Any) -> bool:
    """Whether the data are documents: strings, or sequences of tokens of their own lengths."""
    if isinstance(X, pd.DataFrame):
        return False
    rows = list(X) if isinstance(X, list | tuple | np.ndarray | pd.Series) else []
    return bool(rows) and (isinstance(rows[0], str) or len({np.size(row) for row in rows}) > 1)


def read_file(path: str | Path, labels: str | None = None) -> Data:
    """Read examples from a file. Nothing in it can be executed.

    Args:
        path: .npy or .npz (arrays whose first axis counts examples), .csv or .parquet (numeric
            columns), .txt or .txt.gz (one document a line, UTF-8), or a folder of .parquet files.
            The folder, and a .npy beyond 256 MB, stay on disk.
        labels: the column, or the array of an .npz, that holds labels instead of data.

    Raises:
        InputError: if the file is missing, empty, damaged, of another format, larger than the
            memory once it is unpacked, or holds something other than numbers or lines of text, or
            columns of one name, or examples without a label among others.
    """
    path = Path(path)
    if os.path.isdir(path):  # which has an answer for names that no file can have, too
        return _read_folder(path, labels)
    ending = ending_of(path)
    if ending is None:
        raise FileError(
            f"data expect a file that ends in {', '.join(READERS)}, or the name of a data set, got "
            f"{str(path)!r}."
        )
    check_readable(path, in_parts=ending in IN_PARTS)
    if path.stat().st_size == 0:
        raise FileError(f"{path} is empty (0 bytes): expected a {ending} file with examples.")
    try:
        X, y, names = READERS[ending](path, labels)
    except InputError:
        raise
    except Exception as error:  # readers of foreign formats fail in many ways
        raise _damaged(path, ending, error) from None
    # It becomes a part of paths and pages, and ".." must not, nor bytes that are no text.
    name = path.name.removesuffix(ending).strip(".").encode(errors="replace").decode() or "data"
    if X.dtype == object:
        return Data(X, name=name)
    if y is not None and y.shape != X.shape[:1]:
        raise FileError(
            f"{path} holds an array of shape {X.shape} with labels of shape {y.shape}: expected a "
            "label for each example."
        )
    if y is not None:
        check_labels(y, f"the labels of {path}")
    if X.ndim < 2 or X.size == 0:
        raise FileError(
            f"{path} holds an array of shape {X.shape}: expected examples in rows, at least one, "
            "and a column or more."
        )
    if X.dtype.kind not in "biuf":
        raise FileError(f"{path} holds values of type {X.dtype}: expected real numbers.")
    image_shape = (X.shape[1], X.shape[2]) if X.ndim == 3 else None
    stored = on_disk(X)  # rather than the map, whose file may be cut short while it is read
    return Data(X.reshape(len(X), -1) if stored is None else stored, y, name, names, image_shape)


def _read_folder(path: Path, labels: str | None) -> Data:
    """A folder of Parquet files, which stays on disk."""
    if not any(path.rglob("*.parquet")):
        raise FileError(
            f"{path} is a folder without Parquet files: expected a file that ends in "
            f"{', '.join(READERS)}."
        )
    stored = StoredParquet(path, leave_out=labels)
    y = None if labels is None else stored.column(labels)
    if y is not None:
        check_labels(y, f"the labels of {path}")
    return Data(stored, y, path.resolve().name.removesuffix(".parquet"), stored.feature_names)


def ending_of(path: Path) -> str | None:
    """The ending by which a file is read, such as ".txt.gz"; None where there is no such reader."""
    return next(
        (ending for ending in READERS if path.name.endswith(ending) and path.name != ending), None
    )


def _read_npy(path: Path, labels: str | None) -> Parts:
    if labels is not None:
        raise FileError(
            f"{path} is one array and has no part named {labels!r}: save examples and labels "
            "together as .npz."
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
        _check_members(
            path,
            [
                member
                for member in archive.zip.infolist()
                if _array_name(member) in (key, label_key)
            ],
        )
        return (
            np.asarray(archive[key]),
            None if label_key is None else np.asarray(archive[label_key]),
            None,
        )


def _choose_arrays(path: Path, keys: list[str], labels: str | None) -> tuple[str, str | None]:
    """The names of the examples and of the labels among those of the arrays."""
    label_key = labels or next((key for key in LABEL_KEYS if key in keys), None)
    if labels is not None and labels not in keys:
        raise FileError(f"{path} has no array named {labels!r}: it holds {_some(keys)}.")
    others = [key for key in keys if key != label_key]
    key = (
        others[0]
        if len(others) == 1
        else next((key for key in EXAMPLE_KEYS if key in others), None)
    )
    if key is None:
        raise FileError(
            f"{path} holds the arrays {_some(keys) or '(none)'}: name the one with the examples X."
        )
    return key, label_key


def _array_name(member: ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _check_members(path: Path, members: list[ZipInfo]) -> None:
    """Raise `InputError` before members of an archive are unpacked that could fill the memory."""
    if any(
        member.compress_type not in (ZIP_STORED, ZIP_DEFLATED) for member in members
    ):  # zipfile bounds no other
        raise FileError(
            f"{path} is packed otherwise than by numpy: expected deflated arrays; save it by "
            "numpy.savez_compressed."
        )
    check_unpacked(path, sum(member.file_size for member in members))


def _damaged(path: Path, ending: str, error: Exception) -> InputError:
    if "Object arrays" in str(error) or "Python objects" in str(error):  # the latter of maps
        return FileError(
            f"{path} holds Python objects, which are not loaded because they could run code: save "
            "plain numbers."
        )
    foreign = "allow_pickle" in str(
        error
    )  # numpy's advice for what begins otherwise than its own files
    reason = (
        "it begins otherwise than numpy's files"
        if foreign
        else one_line(error) or type(error).__name__
    )
    return FileError(
        f"{path} cannot be read as {ending} ({reason}): it may be damaged or of another format."
    )


def _read_csv(path: Path, labels: str | None) -> Parts:
    first = [
        str(cell)
        for cell in read_table(path, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0]
    ]
    if _is_example(first):
        warnings.warn(
            f"{path} has no line of column names: its first line is an example.",
            UserWarning,
            stacklevel=4,
        )
        return _split_frame(_strictly(path, header=None), path, labels, named=False)
    _check_distinct(path, first)
    frame = _strictly(path)
    if first[0] == "" and len(frame) and np.array_equal(frame.iloc[:, 0], np.arange(len(frame))):
        warnings.warn(
            f"the first column of {path} has no name and counts the rows: it was left out.",
            UserWarning,
            stacklevel=4,
        )
        frame = frame.iloc[:, 1:]
    return _split_frame(frame, path, labels)


def _is_example(cells: list[str]) -> bool:
    """Whether a first line holds data and not names.

    Names may be whole numbers: years, or the count 0, 1, ... that pandas writes where there are no
    names. A line of numbers and gaps is data, and so is one with a decimal fraction among other
    things.
    """
    if len(cells) > 1 and cells == [str(index) for index in range(len(cells))]:
        return False
    numbers = [cell for cell in cells if _is_number(cell)]
    gaps = [cell for cell in cells if cell.strip().lower() in ("", "na", "nan", "null", "none")]
    return bool(numbers) and (
        len(numbers) + len(gaps) == len(cells) or any("." in cell for cell in numbers)
    )


def _strictly(path: Path, header: int | None = 0) -> pd.DataFrame:
    """The table, where every line has as many cells as the first."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return read_table(path, header=header, low_memory=False)


def _read_parquet(path: Path, labels: str | None) -> Parts:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise InputError(
            f"reading {path} needs pyarrow: pip install 'uncollapse[parquet]'."
        ) from None
    with ParquetFile(path) as file:
        names = file.schema_arrow.names
        check_unpacked(path, 8 * len(names) * file.metadata.num_rows)
    _check_distinct(path, names)
    frame = pd.read_parquet(path)
    return _split_frame(frame, path, labels)


def _split_frame(frame: pd.DataFrame, path: Path, labels: str | None, named: bool = True) -> Parts:
    frame.columns = frame.columns.map(str)
    if labels is not None and labels not in frame:
        raise FileError(
            f"{path} has no column {labels!r}: its columns are {_some(list(frame.columns))}."
        )
    y = None if labels is None else frame.pop(labels).to_numpy()
    if frame.empty:
        raise FileError(
            f"{path} holds no rows or no columns of data: expected at least one of each."
        )
    text = [name for name, column in frame.items() if not _is_numeric(column)]
    if text:
        raise FileError(
            f"{path} has text where numbers belong, in {_some(text)}: remove or encode these "
            "columns, "
            "or name one as labels (--labels)."
        )
    return (
        frame.apply(_to_floats).to_numpy(dtype=np.float64),
        y,
        list(frame.columns) if named else None,
    )


def _to_floats(column: pd.Series[Any]) -> pd.Series[Any]:
    return (
        column
        if pd.api.types.is_numeric_dtype(column)
        else column.map(lambda cell: float(str(cell)))
    )


def _is_numeric(column: pd.Series[Any]) -> bool:
    """Whether a column holds numbers. Those beyond 64 bits come as text or as Python's integers."""
    return pd.api.types.is_numeric_dtype(column) or all(_is_number(cell) for cell in column)


def _check_distinct(path: Path, names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise FileError(
            f"{path} expects a name for each column, got more than one that is called "
            f"{_some(twice)}: rename them."
        )


def _read_text(path: Path, labels: str | None) -> Parts:
    if labels is not None:
        raise FileError(
            f"{path} holds documents and has no part named {labels!r}: leave the labels out."
        )
    return read_documents(path), None, None


def _some(names: list[Any]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return "_" not in str(text)  # which Python's own numbers may hold


IN_PARTS = (".npy",)  # formats of which large files stay on disk
READERS: dict[str, Reader] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
    ".txt.gz": _read_text,
}
