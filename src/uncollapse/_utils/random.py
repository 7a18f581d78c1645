"""Seeded random numbers that leave the global generators as they were.

Importing this module does not load torch.
"""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")
_GENERATOR_LOCK = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators within the block, and restore their states afterwards."""
    import torch

    had_cuda, seed_before = torch.cuda.is_initialized(), torch.initial_seed()
    devices = range(torch.cuda.device_count()) if had_cuda else ()
    try:
        with torch.random.fork_rng(list(devices)):
            torch.manual_seed(seed)
            yield
    finally:
        if torch.cuda.is_initialized() and not had_cuda:  # as if it had been before the block
            torch.cuda.manual_seed_all(seed_before)


@contextmanager
def seeded_in_turn(seed: int) -> Iterator[None]:
    """Like `seeded`, for threads: only one of them at a time is in such a block."""
    with _GENERATOR_LOCK, seeded(seed):
        yield


def drawing_from(seed: int, items: Iterator[Item]) -> Iterator[Item]:
    """Yield the items of an iterator whose draws on torch's global generator start from the seed.

    They do not depend on what else is drawn between two items, nor the other way round.
    """
    import torch

    state = torch.Generator().manual_seed(seed).get_state()
    while True:
        with _GENERATOR_LOCK, torch.random.fork_rng(devices=[]):
            torch.set_rng_state(state)
            try:
                item = next(items)
            except StopIteration:
                return
            state = torch.get_rng_state()
        yield item


class DuplicateCounter:
    """Counts how often rows have been seen, from 64-bit hashes of them.

    >>> counter = DuplicateCounter()
    >>> counter.count(np.array([7, 7, 8], np.uint64)), counter.count(np.array([8, 7], np.uint64))
    (array([0, 1, 0]), array([1, 2]))
    """

    def __init__(self) -> None:
        # Sorted hashes, each array more than twice as long as the next, so that merges are rare.
        self._runs: list[np.ndarray] = []

    def count(self, hashes: np.ndarray) -> np.ndarray:
        """Return how often each row has been seen before, in earlier calls or earlier in this one.

        Args:
            hashes: hashes of the rows, shape (n,), uint64.
        """
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        before = np.arange(len(hashes)) - np.searchsorted(ordered, ordered)
        for run in self._runs:
            before += np.searchsorted(run, ordered, "right") - np.searchsorted(run, ordered)
        self._runs.append(ordered)
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            self._runs[-2:] = [np.sort(np.concatenate(self._runs[-2:]), kind="stable")]
        counts = np.empty_like(before)
        counts[order] = before
        return counts


_counters: ContextVar[defaultdict[str, DuplicateCounter] | None] = ContextVar(
    "counters", default=None
)


@contextmanager
def one_pass() -> Iterator[None]:
    """Let `RowNoise` count equal rows over all pieces of data within the block.

    Rows in pieces then have the noise that they would have in one array.
    """
    token = _counters.set(defaultdict(DuplicateCounter))
    try:
        yield
    finally:
        _counters.reset(token)


class RowNoise:
    """A random stream for each row, which depends on the row's content and a purpose alone.

    Estimates drawn from it are the same in every order and subset of rows. Equal rows are counted
    (see `one_pass`), so that their noise is independent as well.

    Args:
        rows: shape (n, d).
        purpose: streams for different purposes are independent.

    >>> rows = np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])
    >>> noise, alone = RowNoise(rows, "z").normal((4,)), RowNoise(rows[1:2], "z").normal((4,))
    >>> bool((noise[1] == alone[0]).all()), bool((noise[0] == noise[2]).all())
    (True, False)
    """

    def __init__(self, rows: np.ndarray, purpose: str) -> None:
        contents = [row.tobytes() for row in np.ascontiguousarray(rows)]
        hashes = np.array([_hash(content, "") % 2**64 for content in contents], np.uint64)
        counters = _counters.get()
        counts = (DuplicateCounter() if counters is None else counters[purpose]).count(hashes)
        self._keys = [
            _hash(content, f"{purpose} {count}")
            for content, count in zip(contents, counts, strict=True)
        ]

    def normal(self, shape: tuple[int, ...], rows: slice = slice(None)) -> np.ndarray:
        """Draw standard normal numbers for these rows, shape (n, *shape), float32."""
        return np.stack(
            [_stream(key).standard_normal(shape, dtype=np.float32) for key in self._keys[rows]]
        )

    def uniform(self, shape: tuple[int, ...], rows: slice = slice(None)) -> np.ndarray:
        """Draw from U(0, 1) for these rows, shape (n, *shape), float32."""
        return np.stack([_stream(key).random(shape, dtype=np.float32) for key in self._keys[rows]])


def random_indices(n_rows: int, n: int | None = None, seed: int = 0) -> np.ndarray:
    """Draw at most n of n_rows indices without replacement, in random order; all if n is None.

    A smaller n gives the first indices of a larger one.
    """
    return np.random.default_rng(seed).permutation(n_rows)[:n]


def hold_out_indices(n_rows: int, n_held_out: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Split n_rows indices at random into (kept, held out), both in random order."""
    order = random_indices(n_rows, seed=seed)
    return order[n_held_out:], order[:n_held_out]


def derived_seed(seed: int, purpose: str, index: int = 0) -> int:
    """Return a seed below 2^32 that is unrelated to those of other purposes, indices and seeds."""
    return _hash(purpose.encode(), f"{seed} {index}") % 2**32


def _stream(key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=key))


def _hash(content: bytes, salt: str) -> int:
    """Return 128 bits that depend on every bit of both arguments."""
    key = hashlib.blake2b(salt.encode(), digest_size=32).digest()
    return int.from_bytes(hashlib.blake2b(content, digest_size=16, key=key).digest(), "little")
