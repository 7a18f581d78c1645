"""Read data of any kind once, in batches, and keep a random sample of their rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from uncollapse._utils.errors import DataError
from uncollapse._utils.random import random_indices, seeded
from uncollapse._utils.validation import rows_counted_from
from uncollapse.adapters import AdaptedModel
from uncollapse.data.stored import on_disk

ROWS_AT_ONCE = 4096
# Limits of the random sample that is kept in memory.
MAX_SAMPLED_ROWS = 10_000
MAX_SAMPLED_BYTES = 2**28


def n_rows(X: Any) -> int | None:
    """Return the number of rows, or None where only reading them tells."""
    if isinstance(X, DataLoader):
        X = X.dataset
    if isinstance(X, str):
        return None
    shape = getattr(X, "shape", None)  # Sparse matrices have a shape and no length.
    if shape is not None:
        return int(shape[0]) if len(shape) else None
    return len(X) if hasattr(X, "__len__") else None


def row_batches(adapted: AdaptedModel, X: Any) -> Iterator[tuple[np.ndarray, Any]]:
    """Yield batches of rows, shape (n, *features), each with its labels or None.

    X is anything that can be sliced (arrays, memory maps, data frames, lists), rows that stay on
    disk (`uncollapse.data.StoredRows`), a dataset or a loader of PyTorch, or data that the model's
    library reads.

    Raises:
        InputError: if a batch cannot be used.
    """
    if adapted.batches is not None:
        for rows in adapted.batches(X):
            if len(rows):
                yield rows, None
        return
    start = 0
    for piece in _pieces(X):
        rows, labels = (
            _split_labels(piece) if isinstance(X, DataLoader | Dataset) else (piece, None)
        )
        with rows_counted_from(start):
            read = adapted.read(rows)
        if len(read):
            yield read, labels
        start += len(read)


def _pieces(X: Any) -> Iterator[Any]:
    if isinstance(X, Dataset) and not isinstance(X, DataLoader):
        X = DataLoader(X, batch_size=ROWS_AT_ONCE)
    if isinstance(X, DataLoader):
        yield from X
        return
    if hasattr(X, "tables"):  # Rows that stay on disk.
        yield from X.tables()
        return
    n = n_rows(X)
    rows = getattr(X, "iloc", X)  # Data frames are sliced by position.
    if getattr(X, "ndim", 2) > 1:  # Documents have one dimension.
        # Reading a truncated memory map would end the process; `on_disk` checks it first.
        rows = on_disk(X) or rows
    if not n or not hasattr(rows, "__getitem__") or (n <= ROWS_AT_ONCE and rows is X):
        yield X  # The model's reader reports what cannot be used.
        return
    for start in range(0, n, ROWS_AT_ONCE):
        yield rows[start : start + ROWS_AT_ONCE]


def _split_labels(batch: Any) -> tuple[Any, Any]:
    """Split a loader's batch into data, which come first by PyTorch's convention, and labels."""
    if isinstance(batch, dict):
        raise DataError(
            "a loader expects to give tensors, or tuples with the data first, got dictionaries: "
            "give an array of X."
        )
    if isinstance(batch, tuple | list):
        is_labeled = len(batch) > 1 and np.ndim(batch[1]) == 1  # Other targets are no labels.
        return batch[0], batch[1] if is_labeled else None
    return batch, None


class Reservoir:
    """A uniform random sample, without replacement, of all rows that were added (Vitter 1985,
    algorithm R).

    Attributes:
        n_seen: rows that were added.
    """

    def __init__(self) -> None:
        self.n_seen = 0
        self._generator = np.random.default_rng(0)
        self._rows: list[np.ndarray] = []
        self._labels: list[Any] = []
        self._limit: int | None = None

    def add(self, rows: np.ndarray, labels: Any) -> None:
        """Keep some of these rows, in place of others once the sample is full."""
        if self._limit is None:
            self._limit = max(2, min(MAX_SAMPLED_ROWS, MAX_SAMPLED_BYTES // max(1, rows[0].nbytes)))
        free = min(len(rows), self._limit - len(self._rows))
        # Views would keep their whole batches in memory.
        self._rows += [row.copy() for row in rows[:free]]
        self._labels += list(labels[:free]) if labels is not None else [None] * free
        counts = self.n_seen + np.arange(free, len(rows))
        places = self._generator.integers(0, counts + 1)
        for index in np.flatnonzero(places < self._limit):
            self._rows[places[index]] = rows[free + index].copy()
            self._labels[places[index]] = None if labels is None else labels[free + index]
        self.n_seen += len(rows)

    @property
    def rows(self) -> np.ndarray:
        """The sampled rows, shape (n, *features)."""
        return np.stack(self._rows)

    @property
    def labels(self) -> list[Any]:
        """The labels of the sampled rows."""
        return [
            label.item() if isinstance(label, torch.Tensor | np.generic) else label
            for label in self._labels
        ]


def some_rows(adapted: AdaptedModel, X: Any, n: int) -> np.ndarray:
    """Return at most n random rows in random order, as the model observes them, or an array of
    shape (0, 0) if there are none.

    The global generator is left as it was, even if a loader draws from it.
    """
    sample = Reservoir()
    with seeded(0):
        for rows, _ in row_batches(adapted, X):
            sample.add(rows, None)
    if not sample.n_seen:
        return np.empty((0, 0), np.float32)
    rows = sample.rows
    return adapted.model.observe(rows[random_indices(len(rows), n)])
