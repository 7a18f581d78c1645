"""Rows from data sets and loaders of PyTorch."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    default_collate,
)

from uncollapse._utils.errors import DataError
from uncollapse._utils.random import drawing_from, seeded
from uncollapse._utils.validation import read_array, rows_counted_from
from uncollapse.data.stored import RowSource, StoredRows, equal_blocks, lost_data

WIDE = (torch.float64, torch.int64, torch.int32)  # float32 may not tell their values apart.


class StoredDataset(StoredRows):
    """Items of a PyTorch data set, read when they are needed.

    Args:
        dataset: data set with a length. Its items are numbers of one shape, or tuples that begin
            with them.

    Raises:
        DataError: if it is empty, or its items are anything else.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        n = len(dataset) if hasattr(dataset, "__len__") else None
        if not n:
            what = "one without a length" if n is None else "an empty one"
            raise DataError(
                f"X expects a data set of at least one example, got {what}: give a DataLoader or "
                "an array."
            )
        self.dataset = dataset
        with seeded(0):
            self.n_features = self._rows(0, 1).shape[1]
        self.sizes = equal_blocks(n, 4 * self.n_features)

    def read(self, block: int) -> Iterator[np.ndarray]:
        """Yield the rows of a block, in the items' type if it holds more than float32."""
        start = block * self.sizes[0]
        with rows_counted_from(start):
            rows = self._rows(start, start + self.sizes[block])
            _check_width(rows, self.n_features)
        yield rows

    def _rows(self, start: int, stop: int) -> np.ndarray:
        try:
            items = [self.dataset[index] for index in range(start, stop)]
        except (OSError, IndexError) as error:
            raise self.read_error("X", error) from error
        with suppress(TypeError, RuntimeError):  # default_collate's, of items that do not fit
            batch = default_collate([_first_entry(item) for item in items])
            if isinstance(batch, torch.Tensor):
                return _as_rows(batch)
        raise DataError(
            f"X expects items that are numbers of one shape, or tuples with such first, got "
            f"{_describe_kinds(items)}: transform them."
        )


class LoadedRows(RowSource):
    """Batches of a loader, which decides their order and sizes.

    Their number is known once all have been read.

    Args:
        loader: loader of numbers, or of tuples that begin with them. Each epoch has the same rows
            in some order. A user's own batch sampler may cut them into other batches each time.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self.n_features, self.sizes = 0, []

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all batches, as in the first epoch of seed 0."""
        sizes = []
        for rows in self.batches(0, 0):
            sizes.append(len(rows))
            self.n_features = rows.shape[1]
            yield rows
        self.sizes, self.was_read = sizes, True

    def n_batches(self, batch_size: int) -> int:
        """Return the number of batches in an epoch, whatever the batch size."""
        return len(self.sizes)

    def batches(self, epoch: int, seed: int) -> Iterator[np.ndarray]:
        """Yield all batches of an epoch, with the loader's random choices starting from the seed.

        Raises:
            DataError: if a batch cannot be used, or there is none.
            LostDataError: if the batches are not those of the first reading.
        """
        with _starting_at(self.loader, epoch, seed):
            yield from drawing_from(seed, self._batches())

    def _batches(self) -> Iterator[np.ndarray]:
        n, batches = 0, iter(self.loader)
        expected = Counter(self.sizes)
        is_known = bool(self.sizes) and self._has_fixed_batches
        while (batch := self._next(batches)) is not None:
            with rows_counted_from(n):
                rows = _as_rows(_first_entry(batch))
                _check_width(rows, self.n_features)
            if is_known and not expected[len(rows)]:
                raise lost_data("X", f"more batches of {len(rows)} rows than before")
            expected[len(rows)] -= 1
            yield rows
            n += len(rows)
        if not n:
            raise DataError("X expects at least one example in each epoch, got an empty loader.")
        if is_known and n < sum(self.sizes):
            raise lost_data("X", f"{n} rows instead of {sum(self.sizes)}")

    def _next(self, batches: Iterator[Any]) -> Any:
        """Return the next batch, or None at the end."""
        try:
            return next(batches, None)
        except ConnectionError:  # `living_workers` handles the death of a loader's process.
            raise
        except (OSError, IndexError) as error:
            raise self.read_error("X", error) from error

    @property
    def _has_fixed_batches(self) -> bool:
        """Whether PyTorch itself cuts the rows into batches."""
        batch_sampler = self.loader.batch_sampler
        return batch_sampler is None or type(batch_sampler) is BatchSampler

    @property
    def is_ordered(self) -> bool:
        """Whether the loader neither shuffles nor leaves out examples, as far as can be seen."""
        is_sequential = isinstance(self.loader.sampler, SequentialSampler) or isinstance(
            self.loader.dataset, IterableDataset
        )
        return self._has_fixed_batches and is_sequential and not self.loader.drop_last


@contextmanager
def _starting_at(loader: DataLoader[Any], epoch: int, seed: int) -> Iterator[None]:
    """Set epoch and seed in all parts of a loader; put its generators back afterwards."""
    inner = getattr(loader.batch_sampler, "sampler", None)
    parts = (loader, loader.dataset, loader.batch_sampler, loader.sampler, inner)
    unique_parts: dict[int, Any] = {id(part): part for part in parts}
    owned = (getattr(part, "generator", None) for part in unique_parts.values())
    generators = {id(it): it for it in owned if isinstance(it, torch.Generator)}.values()
    states = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(seed)
    for part in unique_parts.values():
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _first_entry(item: Any) -> Any:
    """Return the data of an item, which by PyTorch's convention come first."""
    if isinstance(item, dict):
        raise DataError("X expects tensors, or tuples with the data first, got dictionaries.")
    return item[0] if isinstance(item, tuple | list) else item


def _as_rows(batch: Any) -> np.ndarray:
    """Return a batch with shape (n, n_features), in its own type if it holds more than float32."""
    rows = read_array(batch)
    is_wide = isinstance(batch, torch.Tensor) and batch.dtype in WIDE
    return (batch.detach().cpu().numpy() if is_wide else rows).reshape(len(rows), -1)


def _check_width(rows: np.ndarray, n_features: int) -> None:
    """Raise `DataError` unless the rows have as many columns as those before (0: none before)."""
    if n_features not in (0, rows.shape[1]):
        raise DataError(
            f"X expects {n_features} numbers in every row, as at first, got {rows.shape[1]}."
        )


def _describe_kinds(items: Sequence[Any]) -> str:
    """Return the types and shapes of items, in words."""
    data = map(_first_entry, items)
    shapes = [(type(entry).__name__, getattr(entry, "shape", None)) for entry in data]
    kinds = {name if shape is None else f"{name} of shape {tuple(shape)}" for name, shape in shapes}
    return " and ".join(sorted(kinds)[:2])
