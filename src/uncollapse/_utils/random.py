"""Random numbers that can be told where to start, and leave the global generators as they were."""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import numpy as np
import torch

Item = TypeVar("Item")
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
    """`seeded` for work that threads do side by side, as the global generators serve one of them at
    a time."""
    with _TURN, seeded(seed):
        yield


def drawing_from(seed: int, items: Iterator[Item]) -> Iterator[Item]:
    """What an iterator gives whose draws, on torch's global generator, are to come from a stream
    that begins at the seed.

    Neither do they depend on what else is drawn between two items, nor does that depend on them.
    """
    state = torch.Generator().manual_seed(seed).get_state()
    while True:
        with _TURN, torch.random.fork_rng(devices=[]):
            torch.set_rng_state(state)
            try:
                item = next(items)
            except StopIteration:
                return
            state = torch.get_rng_state()
        yield item


class DuplicateCounter:
    """How often rows have been seen, by 64 bits of a hash of each, which is all that is kept of
    them.

    >>> sightings = DuplicateCounter()
    >>> sightings.count(np.array([7, 7, 8], np.uint64)), sightings.count(np.array([8, 7], np.uint64))
    (array([0, 1, 0]), array([1, 2]))
    """

    def __init__(self) -> None:
        self._runs: list[
            np.ndarray
        ] = []  # sorted, each more than twice as long as the next, so that few are ever merged

    def count(self, keys: np.ndarray) -> np.ndarray:
        """How often each row has been seen before, those before it in `keys` among them; all count
        as seen from now on.

        Args:
            keys: of the rows, shape (n,), uint64.
        """
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        before = np.arange(len(keys)) - np.searchsorted(ordered, ordered)
        for run in self._runs:
            before += np.searchsorted(run, ordered, "right") - np.searchsorted(run, ordered)
        self._runs.append(ordered)
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            self._runs[-2:] = [np.sort(np.concatenate(self._runs[-2:]), kind="stable")]
        counts = np.empty_like(before)
        counts[order] = before
        return counts


_sightings: ContextVar[defaultdict[str, DuplicateCounter] | None] = ContextVar(
    "sightings", default=None
)


@contextmanager
def one_pass() -> Iterator[None]:
    """Within the block, rows that come piece after piece have the noise that they would have if
    they came at once."""
    token = _sightings.set(defaultdict(DuplicateCounter))
    try:
        yield
    finally:
        _sightings.reset(token)


class RowNoise:
    """One random stream for each row, keyed by the row's content and by what the numbers are for.

    An estimate drawn from it is a function of the row alone: the same in every order, subset and
    repetition. Equal rows are told apart by counting them, within `one_pass` from its beginning on,
    so that their noise is independent as well.

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
        hashes = np.array([_number(content, "") % 2**64 for content in contents], np.uint64)
        seen = _sightings.get()
        counts = (DuplicateCounter() if seen is None else seen[purpose]).count(hashes)
        self._keys = [
            _number(content, f"{purpose} {count}")
            for content, count in zip(contents, counts, strict=True)
        ]

    def normal(self, shape: tuple[int, ...], rows: slice = slice(None)) -> np.ndarray:
        """Standard normal draws for these rows, shape (n, *shape), float32."""
        return np.stack(
            [_stream(key).standard_normal(shape, dtype=np.float32) for key in self._keys[rows]]
        )

    def uniform(self, shape: tuple[int, ...], rows: slice = slice(None)) -> np.ndarray:
        """Draws from U(0, 1) for these rows, shape (n, *shape), float32."""
        return np.stack([_stream(key).random(shape, dtype=np.float32) for key in self._keys[rows]])


def random_indices(n_rows: int, n: int | None = None, seed: int = 0) -> np.ndarray:
    """Draw at most n of n_rows indices without replacement, in random order (all of them where n
    is None).

    A smaller n gives the first indices of a larger one.
    """
    return np.random.default_rng(seed).permutation(n_rows)[:n]


def hold_out_indices(n_rows: int, n_held_out: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Split n_rows indices at random into (kept, held out), both in random order."""
    order = random_indices(n_rows, seed=seed)
    return order[n_held_out:], order[:n_held_out]


def derived_seed(seed: int, purpose: str, index: int = 0) -> int:
    """A seed for one purpose of a run, unrelated to those for other purposes, indices and seeds;
    below 2^32."""
    return _number(purpose.encode(), f"{seed} {index}") % 2**32


def _stream(key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=key))


def _number(content: bytes, salt: str) -> int:
    """128 bits that depend on every bit of both."""
    digest = hashlib.blake2b(
        content, digest_size=16, key=hashlib.blake2b(salt.encode(), digest_size=32).digest()
    )
    return int.from_bytes(digest.digest(), "little")
