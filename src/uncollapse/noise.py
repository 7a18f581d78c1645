"""Random numbers that can be told where to start, and leave the global generators as they were."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_TURN = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Start torch's global generators at a seed, and put them back afterwards."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(list(devices)):
        torch.manual_seed(seed)
        yield


@contextmanager
def seeded_in_turn(seed: int) -> Iterator[None]:
    """`seeded` for work that threads do side by side, as the global generators serve one of them at a time."""
    with _TURN, seeded(seed):
        yield


class RowNoise:
    """One random stream for each row, keyed by the row's content and by what the numbers are for.

    An estimate drawn from it is a function of the row alone: the same in every order, subset and repetition. Equal rows are told
    apart by counting them, so that their noise is independent as well.

    Args:
        rows: shape (n, d).
        purpose: streams for different purposes are independent.

    >>> rows = np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])
    >>> noise, alone = RowNoise(rows, "z").normal((4,)), RowNoise(rows[1:2], "z").normal((4,))
    >>> bool((noise[1] == alone[0]).all()), bool((noise[0] == noise[2]).all())
    (True, False)
    """

    def __init__(self, rows: np.ndarray, purpose: str) -> None:
        seen: Counter[bytes] = Counter()
        self._keys = []
        for row in np.ascontiguousarray(rows):
            content = row.tobytes()
            self._keys.append(_number(content, f"{purpose} {seen[content]}"))
            seen[content] += 1

    def normal(self, shape: tuple[int, ...], rows: slice = slice(None)) -> np.ndarray:
        """Standard normal draws for these rows, shape (n, *shape), float32."""
        return np.stack([_stream(key).standard_normal(shape, dtype=np.float32) for key in self._keys[rows]])

    def uniform(self, shape: tuple[int, ...], rows: slice = slice(None)) -> np.ndarray:
        """Draws from U(0, 1) for these rows, shape (n, *shape), float32."""
        return np.stack([_stream(key).random(shape, dtype=np.float32) for key in self._keys[rows]])


def derived_seed(seed: int, purpose: str, index: int = 0) -> int:
    """A seed for one purpose of a run, unrelated to those for other purposes, indices and seeds; below 2^32."""
    return _number(purpose.encode(), f"{seed} {index}") % 2**32


def _stream(key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=key))


def _number(content: bytes, salt: str) -> int:
    """128 bits that depend on every bit of both."""
    digest = hashlib.blake2b(content, digest_size=16, key=hashlib.blake2b(salt.encode(), digest_size=32).digest())
    return int.from_bytes(digest.digest(), "little")
