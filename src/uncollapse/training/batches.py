"""Rows to train on, in batches whose order depends on the seed and the epoch alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from uncollapse._utils.random import derived_seed, drawing_from

BUFFER_BYTES = 2**25  # of rows from disk, float32, that are mixed with each other
POOLED_BATCHES = 50  # batches whose rows are sorted by length together


class Rows(ABC):
    """Rows that can be gone through again and again.

    Attributes:
        batch_size: rows of a batch; the last one of an epoch may have fewer.
    """

    batch_size: int

    @abstractmethod
    def __len__(self) -> int:
        """How many rows there are."""

    @property
    def n_batches(self) -> int:
        """How many batches an epoch has."""
        return -(-len(self) // self.batch_size)

    @abstractmethod
    def batches(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """The batches of an epoch, from one of them on."""

    @abstractmethod
    def random_batch(self, epoch: int) -> Tensor:
        """One of the batches of an epoch, chosen by the global generator."""

    @abstractmethod
    def sample(self, n: int) -> np.ndarray:
        """At most so many rows, always the same random ones."""


class RowsInMemory(Rows):
    """Rows of a tensor.

    Args:
        data: shape (n, data_dim).
        batch_size: rows of a batch.
        seed: decides the order.
        lengths: of the rows, where they are sequences: a batch holds rows of similar length, so
            that filling up costs little. The rows of many batches are sorted, and cut into batches,
            which come in random order.
    """

    def __init__(
        self, data: Tensor, batch_size: int, seed: int, lengths: Tensor | None = None
    ) -> None:
        self.data = data
        self.batch_size = batch_size
        self.seed = derived_seed(seed, "order")
        self.lengths = lengths
        self._order: tuple[int, list[Tensor]] = (-1, [])  # of an epoch

    def __len__(self) -> int:
        return len(self.data)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """The batches of an epoch, from one of them on."""
        for indices in self._indices(epoch)[start:]:
            yield self.data[indices]

    def random_batch(self, epoch: int) -> Tensor:
        """One of the batches of an epoch, chosen by the global generator."""
        indices = self._indices(epoch)
        return self.data[indices[int(torch.randint(len(indices), ()))]]

    def sample(self, n: int) -> np.ndarray:
        """At most so many rows, always the same random ones."""
        return random_rows(self.data, n)

    def _indices(self, epoch: int) -> list[Tensor]:
        if self._order[0] != epoch:
            self._order = epoch, self._draw_indices(epoch)
        return self._order[1]

    def _draw_indices(self, epoch: int) -> list[Tensor]:
        order = torch.randperm(
            len(self), generator=torch.Generator().manual_seed(self.seed + epoch)
        )
        if self.lengths is None:
            return list(torch.split(order, self.batch_size))
        whole, rest = order.tensor_split([len(order) // self.batch_size * self.batch_size])
        pools = torch.split(whole, POOLED_BATCHES * self.batch_size)
        by_length = [pool[self.lengths[pool].argsort(stable=True)] for pool in pools]
        pieces = [
            *(batch for pool in by_length for batch in torch.split(pool, self.batch_size)),
            rest,
        ]
        batches = [piece for piece in pieces if len(piece)]
        chance = torch.Generator().manual_seed(derived_seed(self.seed, "batches", epoch))
        return [batches[index] for index in torch.randperm(len(batches), generator=chance)]


def random_rows(data: Tensor, n: int) -> np.ndarray:
    """At most so many rows of a tensor, always the same random ones."""
    order = np.random.default_rng(0).permutation(len(data))[:n]
    return np.asarray(data[order].cpu().numpy())


class SampledRows(Rows):
    """Rows of which only some are in memory.

    Args:
        some: random rows, shape (n, data_dim), for those who do not need all.
    """

    def __init__(self, some: np.ndarray) -> None:
        self.some = some

    def random_batch(self, epoch: int) -> Tensor:
        """As many of the rows in memory as a batch has, chosen by the global generator."""
        del epoch
        return torch.as_tensor(self.some[torch.randperm(len(self.some))[: self.batch_size].numpy()])

    def sample(self, n: int) -> np.ndarray:
        """At most so many rows, always the same random ones."""
        return self.some[:n]


class Blocks(Protocol):
    """Rows on disk, in blocks."""

    @property
    def sizes(self) -> Sequence[int]:
        """Rows of each block."""

    def read(self, block: int) -> Iterator[np.ndarray]:
        """The rows of a block in one piece or in several, each of shape (n, data_dim)."""


class RowsOnDisk(SampledRows):
    """Rows that are read block after block: in each epoch in another order, and mixed within a
    buffer that many blocks fill.

    Args:
        blocks: where they are.
        batch_size: rows of a batch.
        seed: decides the order.
        some: random rows, for those who do not need all.
    """

    def __init__(self, blocks: Blocks, batch_size: int, seed: int, some: np.ndarray) -> None:
        super().__init__(some)
        self.blocks = blocks
        self.batch_size = batch_size
        self.seed = derived_seed(seed, "order")
        self.n_rows = sum(blocks.sizes)
        self.at_once = max(1, BUFFER_BYTES // (some[0].nbytes * batch_size))  # batches

    def __len__(self) -> int:
        return self.n_rows

    def batches(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """The batches of an epoch, from one of them on."""
        first, to_skip = divmod(start, self.at_once)
        for index, buffer in enumerate(self._buffers(epoch, first), first):
            mixed = np.random.default_rng(
                derived_seed(self.seed, f"buffer {epoch}", index)
            ).permutation(len(buffer))
            for place in range(to_skip * self.batch_size, len(buffer), self.batch_size):
                yield torch.as_tensor(buffer[mixed[place : place + self.batch_size]])
            to_skip = 0

    def _buffers(self, epoch: int, first: int) -> Iterator[np.ndarray]:
        """Whole batches, as many as are mixed with each other, from one such buffer on; the memory
        is the same for all of them."""
        size = self.at_once * self.batch_size
        buffer, filled = np.empty((min(size, self.n_rows), *self.some.shape[1:]), np.float32), 0
        for piece in self._pieces(epoch, first * size):
            rest = piece
            while len(rest):
                taken, rest = np.split(rest, [len(buffer) - filled])
                buffer[filled : filled + len(taken)] = taken
                filled += len(taken)
                if filled == len(buffer):
                    yield buffer
                    filled = 0
        if filled:
            yield buffer[:filled]

    def _pieces(self, epoch: int, to_skip: int) -> Iterator[np.ndarray]:
        """The rows of the blocks in the epoch's order, but for so many at first."""
        order = np.random.default_rng(derived_seed(self.seed, "blocks", epoch)).permutation(
            len(self.blocks.sizes)
        )
        for block in map(int, order):
            if to_skip >= self.blocks.sizes[block]:
                to_skip -= self.blocks.sizes[block]
                continue
            # What a data set draws, such as crops of images, depends on the epoch and the block
            # alone.
            for piece in drawing_from(
                derived_seed(self.seed, f"block {epoch}", block), self.blocks.read(block)
            ):
                yield piece[to_skip:]
                to_skip = max(0, to_skip - len(piece))


class Loader(Protocol):
    """Rows in batches of its own."""

    @property
    def sizes(self) -> Sequence[int]:
        """Rows of each batch."""

    def batches(self, epoch: int, seed: int) -> Iterator[np.ndarray]:
        """The batches of an epoch, each of shape (n, data_dim), in an order that the seed
        decides."""


class RowsFromLoader(SampledRows):
    """Rows in the batches in which a loader gives them. To begin within an epoch, it goes through
    what is before.

    Args:
        loader: gives them.
        seed: decides what is left to chance.
        some: random rows, for those who do not need all.
    """

    def __init__(self, loader: Loader, seed: int, some: np.ndarray) -> None:
        super().__init__(some)
        self.loader = loader
        self.batch_size = max(loader.sizes)
        self.seed = derived_seed(seed, "order")

    def __len__(self) -> int:
        return sum(self.loader.sizes)

    @property
    def n_batches(self) -> int:
        """How many batches an epoch has."""
        return len(self.loader.sizes)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """The batches of an epoch, from one of them on."""
        batches = self.loader.batches(epoch, derived_seed(self.seed, "loader", epoch))
        return (torch.as_tensor(rows, dtype=torch.float32) for rows in islice(batches, start, None))
