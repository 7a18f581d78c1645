"""Rows to train on, in batches whose order depends on the seed and the epoch alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from uncollapse.noise import derived_seed

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
        lengths: of the rows, where they are sequences: a batch holds rows of similar length, so that filling up costs little. The
            rows of many batches are sorted, and cut into batches, which come in random order.
    """

    def __init__(self, data: Tensor, batch_size: int, seed: int, lengths: Tensor | None = None) -> None:
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
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(self.seed + epoch))
        if self.lengths is None:
            return list(torch.split(order, self.batch_size))
        whole, rest = order.tensor_split([len(order) // self.batch_size * self.batch_size])
        pools = torch.split(whole, POOLED_BATCHES * self.batch_size)
        by_length = [pool[self.lengths[pool].argsort(stable=True)] for pool in pools]
        pieces = [*(batch for pool in by_length for batch in torch.split(pool, self.batch_size)), rest]
        batches = [piece for piece in pieces if len(piece)]
        chance = torch.Generator().manual_seed(derived_seed(self.seed, "batches", epoch))
        return [batches[index] for index in torch.randperm(len(batches), generator=chance)]


def random_rows(data: Tensor, n: int) -> np.ndarray:
    """At most so many rows of a tensor, always the same random ones."""
    order = np.random.default_rng(0).permutation(len(data))[:n]
    return np.asarray(data[order].cpu().numpy())


class Blocks(Protocol):
    """Rows on disk, in blocks."""

    @property
    def sizes(self) -> Sequence[int]:
        """Rows of each block."""

    def read(self, block: int) -> np.ndarray:
        """The rows of a block, shape (n, data_dim)."""


class RowsOnDisk(Rows):
    """Rows that are read block after block: in each epoch in another order, and mixed within a buffer of many blocks.

    Args:
        blocks: where they are.
        batch_size: rows of a batch.
        seed: decides the order.
        some: random rows, for those who do not need all.
    """

    def __init__(self, blocks: Blocks, batch_size: int, seed: int, some: np.ndarray) -> None:
        self.blocks = blocks
        self.batch_size = batch_size
        self.seed = derived_seed(seed, "order")
        self.some = some
        self.n_rows = sum(blocks.sizes)
        self.at_once = max(1, BUFFER_BYTES * len(blocks.sizes) // (self.n_rows * some[0].nbytes))  # blocks

    def __len__(self) -> int:
        return self.n_rows

    def batches(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """The batches of an epoch, from one of them on."""
        order = np.random.default_rng(derived_seed(self.seed, "blocks", epoch)).permutation(len(self.blocks.sizes))
        buffers = [order[first : first + self.at_once] for first in range(0, len(order), self.at_once)]
        to_skip, rest = start * self.batch_size, self.some[:0]
        for index, buffer in enumerate(buffers):
            size = sum(self.blocks.sizes[block] for block in buffer)
            if size <= to_skip:
                to_skip -= size
                continue
            mixed = np.random.default_rng(derived_seed(self.seed, f"buffer {epoch}", index)).permutation(size)[to_skip:]
            rows = np.concatenate([rest, self._read(buffer)[mixed]])
            to_skip, n_whole = 0, len(rows) // self.batch_size * self.batch_size
            if index == len(buffers) - 1:
                n_whole = len(rows)
            for first in range(0, n_whole, self.batch_size):
                yield torch.as_tensor(rows[first : first + self.batch_size])
            rest = rows[n_whole:]

    def _read(self, buffer: np.ndarray) -> np.ndarray:
        return np.concatenate([self.blocks.read(int(block)).astype(np.float32, copy=False) for block in buffer])

    def random_batch(self, epoch: int) -> Tensor:
        """Rows for a step out of one random block, chosen by the global generator."""
        del epoch
        rows = self._read(torch.randint(len(self.blocks.sizes), (1,)).numpy())
        return torch.as_tensor(rows[torch.randperm(len(rows))[: self.batch_size].numpy()])

    def sample(self, n: int) -> np.ndarray:
        """At most so many rows, always the same random ones."""
        return self.some[:n]
