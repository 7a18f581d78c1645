"""What users give, checked: complaints in one sentence."""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd

from uncollapse._utils.errors import (
    DataError,
    InputError,
    LostDataError,
    ParameterError,
    brief,
    one_line,
)

SIGNAL_SECONDS = 1  # within which the system tells of a process that has died
FLOATS = [np.float64, np.float32]  # types that scikit-learn's validation leaves as they are


@contextmanager
def as_input_error() -> Iterator[None]:
    """Turn the ValueErrors of scikit-learn's validation into an `InputError` of one line."""
    try:
        yield
    except ValueError as error:
        message = one_line(error)
        raise DataError(f"{message}{_remedy(message)}") from None


@contextmanager
def rows_counted_from(n: int) -> Iterator[None]:
    """Of rows that come in parts, let complaints say from which one on they are counted."""
    try:
        yield
    except InputError as error:
        where = f" (Rows are counted from {n} on.)" if n else ""
        raise type(error)(f"{error}{where}") from None


@contextmanager
def living_workers() -> Iterator[None]:
    """Turn the RuntimeError by which PyTorch tells of a loader's process that has died into a
    `LostDataError`.

    A signal handler of PyTorch raises it, wherever the program happens to be.
    """
    try:
        try:
            yield
        except (ConnectionError, EOFError):  # which may come before the signal
            time.sleep(SIGNAL_SECONDS)
            raise
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise LostDataError(
            f"a process that reads for the loader has died ({one_line(error)}): give it fewer "
            "workers or more memory, to go on "
            "from the last state or begin anew."
        ) from None


def read_array(batch: Any) -> np.ndarray:
    """A batch of numbers, sparse ones too, as float32, shape (n, *features).

    Raises:
        InputError: if it is none, or not finite.
    """
    try:
        dense = batch.toarray() if hasattr(batch, "toarray") else batch
        rows = np.asarray(dense.detach().cpu() if hasattr(dense, "detach") else dense)  # of PyTorch
        with np.errstate(over="ignore"):
            rows = rows.astype(np.float32, copy=False)
    except (TypeError, ValueError):
        raise DataError(
            f"X expects numbers, one row for each example, got {type(batch).__name__}."
        ) from None
    if rows.ndim < 2:
        raise DataError(
            f"X expects at least two dimensions, rows and features, got shape {rows.shape}."
        )
    return finite_floats(rows.reshape(len(rows), math.prod(rows.shape[1:])), "X").reshape(
        rows.shape
    )


def finite_floats(array: np.ndarray, name: str) -> np.ndarray:
    """The array as float32.

    Raises:
        InputError: if a value is not finite, or beyond float32.
    """
    with np.errstate(over="ignore"):
        floats = array.astype(np.float32)
    bad = ~np.isfinite(floats)
    if bad.any():
        row, column = (int(index) for index in np.argwhere(bad)[0])
        raise DataError(
            f"{name} expects finite numbers, got {int(np.isnan(floats).sum())} NaN and "
            f"{int(np.isinf(floats).sum())} infinite "
            f"(inf) values, the first in row {row}, column {column}: drop or impute those rows."
        )
    return floats


class Resolution:
    """Whether float32 holds what tells the values of each column apart, of rows that may come in
    parts."""

    def __init__(self) -> None:
        self._n: Any = 0
        self._mean: Any = 0.0
        self._squares: Any = 0.0  # of distances from the mean, summed up
        self._largest: Any = 0.0
        self._rounding: Any = 0.0

    def add(self, rows: np.ndarray, floats: np.ndarray) -> None:
        """Look at rows, shape (n, n_features) with n >= 1, and at the same as float32."""
        if np.can_cast(rows.dtype, floats.dtype):
            return
        n, mean = len(rows), rows.mean(axis=0, dtype=np.float64)
        apart = mean - self._mean
        self._squares = (
            self._squares
            + n * rows.var(axis=0, dtype=np.float64)
            + apart**2 * (self._n * n / (self._n + n))
        )
        self._mean, self._n = self._mean + apart * (n / (self._n + n)), self._n + n
        self._largest = np.maximum(
            self._largest, np.maximum(rows.max(axis=0), -rows.min(axis=0).astype(np.float64))
        )
        self._rounding = np.maximum(self._rounding, np.abs(floats - rows).max(axis=0))

    def check(self) -> None:
        """Raise `InputError` for values so far from zero that float32 rounds their differences
        away."""
        if not self._n:
            return
        deviation = np.sqrt(self._squares / self._n)
        varies = (
            deviation > 1e-13 * self._largest
        )  # below that, float64 has rounded them away already
        lost = varies & (self._rounding > 0.01 * deviation)
        if lost.any():
            column = int(np.argmax(lost))
            too_small = deviation[column] < np.finfo(np.float32).tiny
            remedy = (
                "give that column in a smaller unit, or drop it"
                if too_small
                else "subtract the mean of each column"
            )
            raise DataError(
                f"X expects values that float32 can tell apart, got a spread of "
                f"{deviation[column]:.3g} around "
                f"{self._mean[column]:.3g} in column {column}: {remedy}."
            )


def check_resolution(rows: np.ndarray, floats: np.ndarray) -> None:
    """Raise `InputError` for values so far from zero that float32 rounds their differences away."""
    resolution = Resolution()
    resolution.add(rows, floats)
    resolution.check()


def check_labels(labels: np.ndarray, name: str = "labels") -> None:
    """Raise `InputError` where an example has no label (None, NaN or NaT)."""
    missing = np.asarray(pd.isna(labels))
    if missing.any():
        raise DataError(
            f"{name} expect one for each example, got {int(missing.sum())} missing, the first in "
            f"row {int(missing.argmax())}: drop "
            "those rows, or give them a class of their own."
        )


def check_count(name: str, count: Any, at_least: int = 1) -> None:
    """Raise `InputError` unless the count is an integer of this size."""
    if not isinstance(count, numbers.Integral) or isinstance(count, bool) or count < at_least:
        what = "a positive integer" if at_least == 1 else f"an integer >= {at_least}"
        raise ParameterError(f"{name} expects {what}, got {brief(count)}.")


def check_positive(name: str, value: Any) -> None:
    """Raise `InputError` unless the value is a positive finite number."""
    if (
        not isinstance(value, numbers.Real)
        or isinstance(value, bool)
        or not 0 < _as_float(value) < math.inf
    ):
        raise ParameterError(f"{name} expects a positive finite number, got {brief(value)}.")


def _as_float(value: numbers.Real) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond float64
        return math.inf


def check_seed(name: str, seed: Any) -> None:
    """Raise `InputError` unless the seed is an integer from 0 to 2^32 - 1."""
    if (
        not isinstance(seed, numbers.Integral)
        or isinstance(seed, bool)
        or not 0 <= int(seed) < 2**32
    ):
        raise ParameterError(f"{name} expects an integer from 0 to 2^32 - 1, got {brief(seed)}.")


def _remedy(message: str) -> str:
    if "is expecting" in message:
        return ": give the same columns as in fit."
    if "could not convert" in message:
        return ": encode text as numbers, or drop those columns."
    if "feature names" in message:
        return " Give the same columns as in fit, in the same order."
    return ""
