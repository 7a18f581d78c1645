"""Validation of input, with error messages of one line."""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from uncollapse._utils.errors import (
    DataError,
    InputError,
    LostDataError,
    ParameterError,
    brief,
    one_line,
)

SIGNAL_SECONDS = 1  # The system reports the death of a process within this time.
FLOATS = [np.float64, np.float32]  # types that scikit-learn's validation leaves as they are
# Remedies for complaints of scikit-learn, by a part of its message.
REMEDIES = {
    "is expecting": ": give the same columns as in fit.",
    "could not convert": ": encode text as numbers, or drop those columns.",
    "feature names": " Give the same columns as in fit, in the same order.",
}


@contextmanager
def as_input_error() -> Iterator[None]:
    """Turn the ValueErrors of scikit-learn's validation into a `DataError` of one line."""
    try:
        yield
    except ValueError as error:
        message = one_line(error)
        remedy = next((text for part, text in REMEDIES.items() if part in message), "")
        raise DataError(f"{message}{remedy}") from None


@contextmanager
def rows_counted_from(n: int) -> Iterator[None]:
    """Add to errors about a part of the rows which row is its first."""
    try:
        yield
    except InputError as error:
        where = f" (Row 0 in this message is row {n} of the data.)" if n else ""
        raise type(error)(f"{error}{where}") from None


@contextmanager
def living_workers() -> Iterator[None]:
    """Turn PyTorch's error about a loader's dead process into a `LostDataError`.

    PyTorch raises it from a signal handler, wherever the program happens to be.
    """
    try:
        try:
            yield
        except (ConnectionError, EOFError):  # These may come before the signal.
            time.sleep(SIGNAL_SECONDS)
            raise
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise LostDataError(
            f"a DataLoader worker has died ({one_line(error)}): give the loader fewer "
            "workers or more memory, and resume from the last state or start again."
        ) from None


def read_array(batch: Any) -> np.ndarray:
    """Return a batch of numbers, dense or sparse, as float32, shape (n, *features).

    Raises:
        DataError: if it is no batch of finite numbers.
    """
    try:
        dense = batch.toarray() if hasattr(batch, "toarray") else batch
        rows = np.asarray(dense.detach().cpu() if hasattr(dense, "detach") else dense)
        with np.errstate(over="ignore"):
            rows = rows.astype(np.float32, copy=False)
    except (TypeError, ValueError):
        raise DataError(
            f"X expects numbers, one row for each example, got {type(batch).__name__}."
        ) from None
    if rows.ndim < 2:
        raise DataError(
            f"X expects at least two dimensions (rows, features), got shape {rows.shape}."
        )
    flat = rows.reshape(len(rows), math.prod(rows.shape[1:]))
    return finite_floats(flat, "X").reshape(rows.shape)


def finite_floats(array: np.ndarray, name: str) -> np.ndarray:
    """Return a table as float32.

    Raises:
        DataError: if a value is not finite, or beyond float32.
    """
    with np.errstate(over="ignore"):
        floats = array.astype(np.float32)
    is_bad = ~np.isfinite(floats)
    if is_bad.any():
        row, column = (int(index) for index in np.argwhere(is_bad)[0])
        n_nan, n_infinite = int(np.isnan(floats).sum()), int(np.isinf(floats).sum())
        raise DataError(
            f"{name} expects finite numbers, got {n_nan} NaN and {n_infinite} infinite (inf) "
            f"values, the first in row {row}, column {column}: drop or impute those rows."
        )
    return floats


class Resolution:
    """Check that float32 tells the values of each column apart, for rows that come in parts."""

    def __init__(self) -> None:
        self._n: Any = 0
        self._mean: Any = 0.0
        self._squares: Any = 0.0  # sum of squared distances from the mean
        self._largest: Any = 0.0
        self._rounding: Any = 0.0

    def add(self, rows: np.ndarray, floats: np.ndarray) -> None:
        """Add rows, shape (n, n_features) with n >= 1, given as they are and as float32."""
        if np.can_cast(rows.dtype, floats.dtype):
            return
        n, mean = len(rows), rows.mean(axis=0, dtype=np.float64)
        apart, total = mean - self._mean, self._n + n
        self._squares += n * rows.var(axis=0, dtype=np.float64) + apart**2 * (self._n * n / total)
        self._mean, self._n = self._mean + apart * (n / total), total
        largest = np.maximum(rows.max(axis=0), -rows.min(axis=0).astype(np.float64))
        self._largest = np.maximum(self._largest, largest)
        self._rounding = np.maximum(self._rounding, np.abs(floats - rows).max(axis=0))

    def check(self) -> None:
        """Raise `DataError` if the values of a column are too far from zero for float32."""
        if not self._n:
            return
        deviation = np.sqrt(self._squares / self._n)
        varies = deviation > 1e-13 * self._largest  # float64 itself rounds what is smaller.
        is_lost = varies & (self._rounding > 0.01 * deviation)
        if is_lost.any():
            column = int(np.argmax(is_lost))
            too_small = deviation[column] < np.finfo(np.float32).tiny
            remedy = (
                "give that column in a smaller unit, or drop it"
                if too_small
                else "subtract the mean of each column"
            )
            raise DataError(
                f"X expects values that float32 can tell apart, got a spread of "
                f"{deviation[column]:.3g} around {self._mean[column]:.3g} in column {column}: "
                f"{remedy}."
            )


def check_resolution(rows: np.ndarray, floats: np.ndarray) -> None:
    """Raise `DataError` if the values of a column are too far from zero for float32."""
    resolution = Resolution()
    resolution.add(rows, floats)
    resolution.check()


def check_labels(labels: np.ndarray, name: str = "labels") -> None:
    """Raise `DataError` if an example has no label (None, NaN or NaT)."""
    import pandas as pd

    is_missing = np.asarray(pd.isna(labels))
    if is_missing.any():
        raise DataError(
            f"{name} expect one for each example, got {int(is_missing.sum())} missing, the first "
            f"in row {int(is_missing.argmax())}: drop those rows, or give them a class of their "
            "own."
        )


def check_count(name: str, count: Any, at_least: int = 1) -> None:
    """Raise `ParameterError` unless the count is an integer of at least this size."""
    if not _is_integer(count) or count < at_least:
        what = "a positive integer" if at_least == 1 else f"an integer >= {at_least}"
        raise ParameterError(f"{name} expects {what}, got {brief(count)}.")


def check_seed(name: str, seed: Any) -> None:
    """Raise `ParameterError` unless the seed is an integer from 0 to 2^32 - 1."""
    if not _is_integer(seed) or not 0 <= int(seed) < 2**32:
        raise ParameterError(f"{name} expects an integer from 0 to 2^32 - 1, got {brief(seed)}.")


def check_positive(name: str, value: Any) -> None:
    """Raise `ParameterError` unless the value is a positive finite number."""
    try:
        is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        is_valid = is_real and 0 < float(value) < math.inf
    except OverflowError:  # an integer beyond float64
        is_valid = False
    if not is_valid:
        raise ParameterError(f"{name} expects a positive finite number, got {brief(value)}.")


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
