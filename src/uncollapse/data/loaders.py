"""Examples from data sets and loaders of PyTorch."""

from __future__ import annotations

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
from uncollapse.data.stored import RowSource, StoredRows, equal_blocks, lost

WIDE = (torch.float64, torch.int64, torch.int32)  # types whose values float32 may not tell apart


class StoredDataset(StoredRows):
    """The items of a data set of PyTorch, which are read when they are needed.

    Args:
        dataset: has a length, and items by their number: numbers of one shape, or tuples of which
            these come first.

    Raises:
        InputError: if it is empty, or holds something else.
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
        """The rows of a block, of the type of its items if that holds more than float32."""
        start = block * self.sizes[0]
        with rows_counted_from(start):
            rows = _as_wide(self._rows(start, start + self.sizes[block]), self.n_features)
        yield rows

    def _rows(self, start: int, stop: int) -> np.ndarray:
        try:
            items = [self.dataset[index] for index in range(start, stop)]
        except (
            OSError,
            IndexError,
        ) as error:  # of the files that items come from; of one that is shorter than it says
            raise self.missing("X", error) from error
        with suppress(
            TypeError, RuntimeError
        ):  # of things that are no numbers, or of several shapes
            batch = default_collate([_data_of(item) for item in items])
            if isinstance(batch, torch.Tensor):
                return _flat(batch)
        raise DataError(
            f"X expects items that are numbers of one shape, or tuples with such first, got "
            f"{_kinds(items)}: transform them."
        )


class LoadedRows(RowSource):
    """The batches of a loader, which decides over their order and their sizes. How many there are
    shows when all have come once.

    Args:
        loader: gives numbers, or tuples of which these come first, the same in each epoch up to
            their order. A batch sampler of the user's own may cut them otherwise each time.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self.n_features, self.sizes = 0, []

    def blocks(self) -> Iterator[np.ndarray]:
        """All batches, as in the first epoch of seed 0.

        Raises:
            InputError: if a batch cannot be used.
        """
        sizes = []
        for rows in self.batches(0, 0):
            sizes.append(len(rows))
            self.n_features = rows.shape[1]
            yield rows
        self.sizes, self.was_read = sizes, True

    def n_batches(self, batch_size: int) -> int:
        """How many batches an epoch has, whatever the batch size that is asked for."""
        return len(self.sizes)

    def batches(self, epoch: int, seed: int) -> Iterator[np.ndarray]:
        """All batches of an epoch, in the order that the loader chooses by chance that begins at
        the seed.

        Raises:
            InputError: if a batch cannot be used, or there is none.
            LostDataError: if there are others than when all had come once.
        """
        with _starting_at(self.loader, epoch, seed):
            yield from drawing_from(seed, self._batches())

    def _batches(self) -> Iterator[np.ndarray]:
        n, batches = 0, iter(self.loader)
        expected = Counter(self.sizes if self._is_plain else ())
        while (batch := self._next(batches)) is not None:
            with rows_counted_from(n):
                rows = _as_wide(_flat(_data_of(batch)), self.n_features)
            if self.sizes and self._is_plain and not expected[len(rows)]:
                raise lost("X", f"more batches of {len(rows)} rows have come than before")
            expected[len(rows)] -= 1
            yield rows
            n += len(rows)
        if 0 < n < sum(self.sizes) and self._is_plain:
            raise lost("X", f"{n} rows have come, and {sum(self.sizes)} before")
        if not n:
            raise DataError(
                "X expects at least one example each time that it is gone through, got a loader "
                "that gave none."
            )

    def _next(self, batches: Iterator[Any]) -> Any:
        """The next batch; None at the end."""
        try:
            return next(batches, None)
        except ConnectionError:  # to a process that has died, as `living_workers` tells
            raise
        except (
            OSError,
            IndexError,
        ) as error:  # of the files that examples come from; of a data set shorter than it says
            raise self.missing("X", error) from error

    @property
    def _is_plain(self) -> bool:
        """Whether PyTorch cuts the rows into batches."""
        batch_sampler = self.loader.batch_sampler
        return batch_sampler is None or type(batch_sampler) is BatchSampler

    @property
    def is_ordered(self) -> bool:
        """Whether the loader neither shuffles nor leaves examples out, as far as can be seen."""
        goes_along = isinstance(self.loader.sampler, SequentialSampler) or isinstance(
            self.loader.dataset, IterableDataset
        )
        return self._is_plain and goes_along and not self.loader.drop_last


@contextmanager
def _starting_at(loader: DataLoader[Any], epoch: int, seed: int) -> Iterator[None]:
    """Let all that decides over a loader's order begin at an epoch, or at a seed; generators are
    put back in the end."""
    inner = getattr(loader.batch_sampler, "sampler", None)  # most often the loader's own
    parts: dict[int, Any] = {
        id(part): part
        for part in (loader, loader.dataset, loader.batch_sampler, loader.sampler, inner)
    }
    found = {
        id(it): it
        for it in (getattr(part, "generator", None) for part in parts.values())
        if isinstance(it, torch.Generator)
    }
    states = [(generator, generator.get_state()) for generator in found.values()]
    for generator in found.values():
        generator.manual_seed(seed)
    for part in parts.values():
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


def _data_of(item: Any) -> Any:
    """What comes first, by PyTorch's convention."""
    if isinstance(item, dict):
        raise DataError(
            "X expects tensors, or tuples with the data first, got dictionaries: give the data "
            "alone."
        )
    return item[0] if isinstance(item, tuple | list) else item


def _flat(batch: Any) -> np.ndarray:
    """A batch as rows, shape (n, n_features), of its own type if that holds more than float32."""
    rows = read_array(batch)
    given = (
        batch.detach().cpu().numpy()
        if isinstance(batch, torch.Tensor) and batch.dtype in WIDE
        else rows
    )
    return given.reshape(len(rows), -1)


def _as_wide(rows: np.ndarray, n_features: int) -> np.ndarray:
    """The same rows, if they are as wide as those before, of which 0 is none.

    Raises:
        InputError: if they are not.
    """
    if n_features not in (0, rows.shape[1]):
        raise DataError(
            f"X expects {n_features} numbers in every row, as at first, got {rows.shape[1]}: give "
            "rows of one width."
        )
    return rows


def _kinds(items: Sequence[Any]) -> str:
    """What items there are, by types and shapes."""
    shapes = [(type(data).__name__, getattr(data, "shape", None)) for data in map(_data_of, items)]
    kinds = {name if shape is None else f"{name} of shape {tuple(shape)}" for name, shape in shapes}
    return " and ".join(sorted(kinds)[:2])
