"""One pass over data of any size, and a random sample of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from uncollapse._utils.errors import DataError
from uncollapse._utils.random import seeded
from uncollapse._utils.validation import rows_counted_from
from uncollapse.adapters import AdaptedModel
from uncollapse.data.stored import on_disk

ROWS_AT_ONCE = 4096
# What looks closer than one pass can look at so many random rows, and so many bytes of them.
MAX_SAMPLED_ROWS = 10_000
MAX_SAMPLED_BYTES = 2**28


def n_rows(X: Any) -> int | None:
    """How many rows there are; None where only going through them tells."""
    if isinstance(X, DataLoader):
        X = X.dataset
    if isinstance(X, str):
        return None
    shape = getattr(X, "shape", None)  # which sparse matrices have, and no length
    if shape is not None:
        return int(shape[0]) if len(shape) else None
    return len(X) if hasattr(X, "__len__") else None


def row_batches(subject: AdaptedModel, X: Any) -> Iterator[tuple[np.ndarray, Any]]:
    """Rows, shape (n, *features), and labels that come with them or None, batch after batch.

    Args:
        subject: whose data they are.
        X: anything that can be sliced (arrays, memory maps, data frames, lists), rows that stay on
            disk (`uncollapse.data.StoredRows`), a dataset or a loader of PyTorch, or what the
            subject's library knows how to read.

    Raises:
        InputError: if a batch cannot be used.
    """
    if subject.batches is not None:
        yield from ((rows, None) for rows in subject.batches(X) if len(rows))
        return
    start = 0
    for piece in _pieces(X):
        rows, labels = _taken_apart(piece) if isinstance(X, DataLoader | Dataset) else (piece, None)
        with rows_counted_from(start):
            read = subject.read(rows)
        if len(read):
            yield read, labels
        start += len(read)


def _pieces(X: Any) -> Iterator[Any]:
    if isinstance(X, Dataset) and not isinstance(X, DataLoader):
        X = DataLoader(X, batch_size=ROWS_AT_ONCE)
    if isinstance(X, DataLoader):
        yield from X
        return
    if hasattr(X, "tables"):  # rows that stay on disk
        yield from X.tables()
        return
    n = n_rows(X)
    rows = getattr(X, "iloc", X)  # of a data frame
    if getattr(X, "ndim", 2) > 1:  # documents have one dimension
        rows = on_disk(X) or rows  # a map itself ends the process where its file is cut short
    if not n or not hasattr(rows, "__getitem__") or (n <= ROWS_AT_ONCE and rows is X):
        yield X  # whose reader complains where it must
        return
    for start in range(0, n, ROWS_AT_ONCE):
        yield rows[start : start + ROWS_AT_ONCE]


def _taken_apart(batch: Any) -> tuple[Any, Any]:
    """Data and labels of a loader's batch, by PyTorch's convention that data come first."""
    if isinstance(batch, dict):
        raise DataError(
            "a loader expects to give tensors, or tuples with the data first, got dictionaries: "
            "give an array of X."
        )
    if isinstance(batch, tuple | list):
        labels = (
            batch[1] if len(batch) > 1 and np.ndim(batch[1]) == 1 else None
        )  # other targets are no labels
        return batch[0], labels
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
        """Take some of these rows, in place of others once the sample is full."""
        if self._limit is None:
            self._limit = max(2, min(MAX_SAMPLED_ROWS, MAX_SAMPLED_BYTES // max(1, rows[0].nbytes)))
        free = min(len(rows), self._limit - len(self._rows))
        self._rows += [
            row.copy() for row in rows[:free]
        ]  # not views, which would keep their batches in memory
        self._labels += list(labels[:free]) if labels is not None else [None] * free
        counts = self.n_seen + np.arange(free, len(rows))
        places = self._generator.integers(0, counts + 1)
        for index in np.flatnonzero(places < self._limit):
            self._rows[places[index]] = rows[free + index].copy()
            self._labels[places[index]] = None if labels is None else labels[free + index]
        self.n_seen += len(rows)

    @property
    def rows(self) -> np.ndarray:
        """The sample, shape (n, *features)."""
        return np.stack(self._rows)

    @property
    def labels(self) -> list[Any]:
        """What was given with each of them."""
        return [
            label.item() if isinstance(label, torch.Tensor | np.generic) else label
            for label in self._labels
        ]


def some_rows(subject: AdaptedModel, X: Any, n: int) -> np.ndarray:
    """At most n random rows in random order, as the model observes them; none, of shape (0, 0),
    where there are none.

    The global generator is left as it was, though a loader draws on it.
    """
    sample = Reservoir()
    with seeded(0):
        for rows, _ in row_batches(subject, X):
            sample.add(rows, None)
    if not sample.n_seen:
        return np.empty((0, 0), np.float32)
    rows = sample.rows
    return subject.model.observe(rows[np.random.default_rng(0).permutation(len(rows))[:n]])
