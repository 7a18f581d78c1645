"""Random numbers that belong to a row of data, whatever batch it comes in.

A Monte Carlo estimate drawn from them is a function of the row alone: the same in every order, subset and repetition, and
independent from row to row.
"""

from __future__ import annotations

import hashlib

import numpy as np


class RowNoise:
    """One random stream for each row, keyed by the row's content and by what the numbers are for.

    Args:
        rows: shape (n, d).
        purpose: streams for different purposes are independent.

    >>> rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    >>> together, alone = RowNoise(rows, "z").normal((4,)), RowNoise(rows[1:], "z").normal((4,))
    >>> bool((together[1] == alone[0]).all())
    True
    """

    def __init__(self, rows: np.ndarray, purpose: str) -> None:
        self._streams = [np.random.Generator(np.random.Philox(key=_key(row, purpose))) for row in np.ascontiguousarray(rows)]

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normal draws, shape (n, *shape), float32."""
        return np.stack([stream.standard_normal(shape, dtype=np.float32) for stream in self._streams])

    def uniform(self, shape: tuple[int, ...]) -> np.ndarray:
        """Draws from U(0, 1), shape (n, *shape), float32."""
        return np.stack([stream.random(shape, dtype=np.float32) for stream in self._streams])


def _key(row: np.ndarray, purpose: str) -> int:
    digest = hashlib.blake2b(row.tobytes(), digest_size=16, person=purpose.encode()).digest()
    return int.from_bytes(digest, "little")
