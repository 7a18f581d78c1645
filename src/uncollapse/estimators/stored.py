"""Data that stay on disk while a model is trained: what is read once before, and what of them is kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from uncollapse.data.stored import MAX_IN_MEMORY, StoredArray, StoredRows
from uncollapse.diagnostics.stream import Reservoir
from uncollapse.errors import InputError
from uncollapse.families import Family
from uncollapse.inputs import finite_floats
from uncollapse.progress import progress_bar


def as_stored(X: Any) -> StoredRows | None:
    """The rows, if they are to stay on disk: large memory maps, an AnnData that is backed, and what is stored by itself."""
    if isinstance(X, StoredRows):
        return X
    if isinstance(X, np.memmap):
        return StoredArray(X) if X.nbytes > MAX_IN_MEMORY else None
    return StoredArray(X.X) if getattr(X, "isbacked", False) else None


def survey(stored: StoredRows, family: Family, verbose: bool) -> tuple[np.ndarray, bool]:
    """Go through all rows once.

    Returns:
        A random sample, shape (n, n_features), float32, at most 10,000 rows; and whether all rows are as the family observes them.

    Raises:
        InputError: if a row is not finite, or lies outside the family's support.
    """
    sample, observed, n = Reservoir(), True, 0
    with progress_bar("reading", len(stored), verbose) as advance:
        for block in stored.blocks():
            try:
                rows = finite_floats(block, "X")
                family.check(rows)
            except InputError as error:
                raise InputError(f"{error} (Rows are counted from {n} on.)") from None
            observed = observed and family.is_observed(rows)
            sample.add(rows, None)
            n += len(rows)
            advance("", n)
    return sample.rows, observed
