"""Data that are not in memory while a model is trained: what is read once before, and what of them
is kept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, IterableDataset

from uncollapse._utils.progress import progress_bar
from uncollapse._utils.signals import raise_pending_signal
from uncollapse._utils.validation import Resolution, finite_floats, rows_counted_from
from uncollapse.data.loaders import LoadedRows, StoredDataset
from uncollapse.data.stored import MAX_IN_MEMORY, RowSource, on_disk
from uncollapse.families import Family
from uncollapse.measures.batches import Reservoir


def as_source(X: Any, batch_size: int) -> RowSource | None:
    """The rows, if they are to stay where they are.

    Those are large memory maps, an AnnData that is backed, data sets and loaders of PyTorch, and
    what is stored by itself. A data set that can only be gone through comes in batches of this
    size.
    """
    if isinstance(X, RowSource):
        return X
    if isinstance(X, IterableDataset):
        X = DataLoader(X, batch_size)
    if isinstance(X, DataLoader):
        return LoadedRows(X)
    if isinstance(X, Dataset):
        return StoredDataset(X)
    if isinstance(X, np.memmap) and X.nbytes <= MAX_IN_MEMORY:
        return None
    return on_disk(X)


@dataclass(frozen=True)
class DataSummary:
    """What is known of rows that have been gone through once.

    Attributes:
        sample: random ones, shape (n, n_features), float32, at most 10,000.
        is_observed: whether all are as the family observes them.
        digest: of all of them, and of how they are cut into blocks.
    """

    sample: np.ndarray
    is_observed: bool
    digest: str


def summarize(source: RowSource, family: Family, verbose: bool) -> DataSummary:
    """Go through all rows once.

    Raises:
        InputError: if a row is not finite, or lies outside the family's support, or float32 cannot
            tell the rows apart.
    """
    sample, digest, is_observed, n, resolution = (
        Reservoir(),
        hashlib.blake2b(digest_size=16),
        True,
        0,
        Resolution(),
    )
    with progress_bar("reading", len(source) or None, verbose) as advance:
        for block in source.blocks():
            with rows_counted_from(n):
                rows = finite_floats(block, "X")
                family.check(rows)
            resolution.add(block, rows)
            is_observed = is_observed and family.is_observed(rows)
            sample.add(rows, None)
            digest.update(np.ascontiguousarray(rows).data)
            n += len(rows)
            advance("", n)
            raise_pending_signal()
    resolution.check()
    digest.update(repr(list(source.sizes)).encode())
    return DataSummary(sample.rows, is_observed, digest.hexdigest())
