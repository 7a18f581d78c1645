"""Data that stay out of memory in training: one pass over them, and the summary that is kept."""

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
    """Return a source of rows for data that stay where they are; None for data in memory.

    Large memory maps, a backed AnnData, PyTorch data sets and loaders, and row sources stay where
    they are. An iterable data set is read in batches of `batch_size`.
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
    """Summary of one pass over rows.

    Attributes:
        sample: random rows, shape (n, n_features), float32, at most 10,000.
        is_observed: whether the family observes all rows as they are.
        digest: digest of all rows and of their blocks.
    """

    sample: np.ndarray
    is_observed: bool
    digest: str


def summarize(source: RowSource, family: Family, verbose: bool) -> DataSummary:
    """Read and check all rows once.

    Raises:
        DataError: if a row is not finite, or lies outside the family's support, or float32 cannot
            tell the rows apart.
    """
    sample, resolution = Reservoir(), Resolution()
    digest, is_observed, n = hashlib.blake2b(digest_size=16), True, 0
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
