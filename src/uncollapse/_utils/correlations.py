"""Canonical correlations of two sets of columns."""

from __future__ import annotations

import numpy as np

from uncollapse._utils.errors import DataError


def canonical_correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute canonical correlations (Hotelling 1936), largest first, shape (min(d_a, d_b),).

    They are the cosines of the angles between the spaces that the centered columns span (Bjorck &
    Golub 1973), and do not change under invertible affine maps of either side. A column that is
    constant, or a linear function of others, contributes a 0. Unrelated columns correlate by up to
    about (sqrt(d_a) + sqrt(d_b)) / sqrt(n).

    Args:
        a: shape (n, d_a).
        b: shape (n, d_b).

    Raises:
        DataError: if they are not tables of finite numbers with equally many rows, at least two.

    >>> x = np.arange(8.0)
    >>> a, b = np.column_stack([x, x**2]), np.column_stack([1 - 3 * x, np.ones(8)])
    >>> canonical_correlations(a, b).round(9).tolist()
    [1.0, 0.0]
    """
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or len(a) < 2:
        raise DataError(
            f"canonical correlations expect two tables with equally many rows, at least 2, got "
            f"shapes {a.shape} and {b.shape}."
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError(
            "canonical correlations expect finite numbers, got NaN or infinity: drop those rows."
        )
    cosines = np.linalg.svd(_basis(a).T @ _basis(b), compute_uv=False)
    correlations = np.zeros(min(a.shape[1], b.shape[1]))
    correlations[: len(cosines)] = np.clip(cosines, 0, 1)
    return correlations


def _basis(columns: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of the span of the centered columns, shape (n, rank)."""
    columns = np.asarray(columns, dtype=np.float64)
    centered = columns - columns.mean(axis=0)
    norms = np.linalg.norm(centered, axis=0)
    # A constant column keeps only rounding errors.
    varies = norms > 1e-12 * np.linalg.norm(columns, axis=0)
    vectors, sizes, _ = np.linalg.svd(centered[:, varies] / norms[varies], full_matrices=False)
    basis: np.ndarray = vectors[:, sizes > 1e-10 * sizes.max(initial=0)]
    return basis
