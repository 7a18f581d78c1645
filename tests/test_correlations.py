"""Tests of canonical correlations on columns with known correlations."""

import numpy as np
import pytest

from uncollapse._utils.correlations import canonical_correlations
from uncollapse._utils.errors import InputError


def test_canonical_correlations_of_known_columns():
    basis = np.linalg.qr(
        np.column_stack([np.ones(50), np.random.default_rng(0).standard_normal((50, 4))])
    )[0][:, 1:]
    angles = np.array([0.3, 1.1])
    a, b = basis[:, :2], basis[:, :2] * np.cos(angles) + basis[:, 2:] * np.sin(angles)
    assert canonical_correlations(a, b) == pytest.approx(np.cos(angles), abs=1e-12)
    # The same for every invertible affine map of either side, and from either side.
    mixed, shifted = (
        a @ np.array([[1.0, 2.0], [0.5, -1.0]]) + 3,
        b @ np.array([[1e-6, 0.0], [1e-6, 1e3]]) - 100,
    )
    assert canonical_correlations(mixed, shifted) == pytest.approx(np.cos(angles), abs=1e-8)
    assert canonical_correlations(b, a) == pytest.approx(np.cos(angles), abs=1e-12)
    # One column against one is Pearson's correlation without its sign.
    x, y = a[:, :1] + basis[:, 3:], -b[:, :1] - 0.2 * basis[:, 3:]
    assert canonical_correlations(x, y) == pytest.approx(
        [abs(np.corrcoef(x.T, y.T)[0, 1])], abs=1e-12
    )


def test_columns_that_add_nothing_correlate_with_nothing():
    x = np.random.default_rng(0).standard_normal((40, 2))
    repeated = np.column_stack([x[:, 0], 2 * x[:, 0] + 1, np.full(40, 0.1)])
    assert canonical_correlations(repeated, np.column_stack([x, x.sum(axis=1)])) == pytest.approx(
        [1, 0, 0], abs=1e-12
    )
    assert canonical_correlations(np.full((40, 2), 0.3), x).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (np.zeros((3, 1)), np.zeros((4, 1)), r"got shapes \(3, 1\) and \(4, 1\)"),
        (np.zeros(3), np.zeros(3), r"got shapes \(3,\) and \(3,\)"),
        (np.zeros((1, 1)), np.zeros((1, 1)), "at least 2"),
        (np.full((3, 1), np.nan), np.zeros((3, 1)), "finite numbers"),
        (np.zeros((3, 1)), np.full((3, 1), np.inf), "finite numbers"),
    ],
)
def test_unsuitable_tables_are_refused(a, b, words):
    with pytest.raises(InputError, match=words):
        canonical_correlations(a, b)
