"""Rows to train on, in batches whose order depends on the seed and the epoch alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from uncollapse._utils.random import derived_seed, drawing_from, random_indices

BUFFER_BYTES = 2**25  # size of the buffer, in float32, in which rows from disk are shuffled
POOLED_BATCHES = 50  # batches whose rows are sorted by length together


class Batches(ABC):
    """Batches of rows, epoch after epoch.

    Attributes:
        batch_size: rows of a batch; the last batch of an epoch may have fewer.
    """

    batch_size: int

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @property
    def n_batches(self) -> int:
        """Number of batches of an epoch."""
        return -(-len(self) // self.batch_size)

    @abstractmethod
    def batches(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """Yield the batches of an epoch, from number `start` on."""

    @abstractmethod
    def random_batch(self, epoch: int) -> Tensor:
        """Draw one of the batches of an epoch by the global generator."""


class BatchesInMemory(Batches):
    """Batches of the rows of a tensor.

    Args:
        data: shape (n, data_dim).
        batch_size: rows of a batch.
        seed: decides the order.
        lengths: lengths of the rows, where they are sequences. Batches then hold rows of similar
            length, so that little is padded: the rows of 50 batches are sorted and cut into
            batches, which come in random order.
    """

    def __init__(
        self, data: Tensor, batch_size: int, seed: int, lengths: Tensor | None = None
    ) -> None:
        self.data = data
        self.batch_size = batch_size
        self.seed = derived_seed(seed, "order")
        self.lengths = lengths
        self._order: tuple[int, list[Tensor]] = (-1, [])  # epoch, and the indices of its batches

    def __len__(self) -> int:
        return len(self.data)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """Yield the batches of an epoch, from number `start` on."""
        for indices in self._indices(epoch)[start:]:
            yield self.data[indices]

    def random_batch(self, epoch: int) -> Tensor:
        """Draw one of the batches of an epoch by the global generator."""
        indices = self._indices(epoch)
        return self.data[indices[int(torch.randint(len(indices), ()))]]

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
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "batches", epoch))
        return [batches[index] for index in torch.randperm(len(batches), generator=generator)]


class SampledBatches(Batches):
    """Batches of rows of which only a sample is in memory.

    Args:
        sample: random rows, shape (n, data_dim), from which `random_batch` draws.
    """

    def __init__(self, sample: np.ndarray) -> None:
        self.sample = sample

    def random_batch(self, epoch: int) -> Tensor:
        """Draw a batch of rows of the sample by the global generator."""
        del epoch
        order = torch.randperm(len(self.sample))[: self.batch_size]
        return torch.as_tensor(self.sample[order.numpy()])


class Blocks(Protocol):
    """Rows on disk, in blocks."""

    @property
    def sizes(self) -> Sequence[int]:
        """Number of rows of each block."""

    def read(self, block: int) -> Iterator[np.ndarray]:
        """Yield the rows of a block in pieces of shape (n, data_dim)."""


class BatchesOnDisk(SampledBatches):
    """Batches of rows that are read block after block.

    The order of the blocks is random in each epoch, and rows are shuffled within a buffer that many
    blocks fill.

    Args:
        blocks: where the rows are.
        batch_size: rows of a batch.
        seed: decides the order.
        sample: random rows, from which `random_batch` draws.
    """

    def __init__(self, blocks: Blocks, batch_size: int, seed: int, sample: np.ndarray) -> None:
        super().__init__(sample)
        self.blocks = blocks
        self.batch_size = batch_size
        self.seed = derived_seed(seed, "order")
        self.n_rows = sum(blocks.sizes)
        self.buffer_batches = max(1, BUFFER_BYTES // (sample[0].nbytes * batch_size))

    def __len__(self) -> int:
        return self.n_rows

    def batches(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """Yield the batches of an epoch, from number `start` on."""
        first, to_skip = divmod(start, self.buffer_batches)
        for index, buffer in enumerate(self._buffers(epoch, first), first):
            order = random_indices(
                len(buffer), seed=derived_seed(self.seed, f"buffer {epoch}", index)
            )
            for place in range(to_skip * self.batch_size, len(buffer), self.batch_size):
                yield torch.as_tensor(buffer[order[place : place + self.batch_size]])
            to_skip = 0

    def _buffers(self, epoch: int, first: int) -> Iterator[np.ndarray]:
        """Yield full buffers from number `first` on, and the rest; all share their memory."""
        size = self.buffer_batches * self.batch_size
        buffer = np.empty((min(size, self.n_rows), *self.sample.shape[1:]), np.float32)
        filled = 0
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
        """Yield the rows of the blocks in the epoch's order, without the first `to_skip` rows."""
        seed = derived_seed(self.seed, "blocks", epoch)
        for block in map(int, random_indices(len(self.blocks.sizes), seed=seed)):
            if to_skip >= self.blocks.sizes[block]:
                to_skip -= self.blocks.sizes[block]
                continue
            # Random transforms of a data set depend on the epoch and the block alone.
            block_seed = derived_seed(self.seed, f"block {epoch}", block)
            for piece in drawing_from(block_seed, self.blocks.read(block)):
                yield piece[to_skip:]
                to_skip = max(0, to_skip - len(piece))


class Loader(Protocol):
    """Rows in batches of their own."""

    @property
    def sizes(self) -> Sequence[int]:
        """Number of rows of each batch."""

    def batches(self, epoch: int, seed: int) -> Iterator[np.ndarray]:
        """Yield the batches of an epoch, shape (n, data_dim), in an order that the seed decides."""


class BatchesFromLoader(SampledBatches):
    """Batches as a loader yields them. To start within an epoch, it skips those before.

    Args:
        loader: yields the batches.
        seed: decides their order.
        sample: random rows, from which `random_batch` draws.
    """

    def __init__(self, loader: Loader, seed: int, sample: np.ndarray) -> None:
        super().__init__(sample)
        self.loader = loader
        self.batch_size = max(loader.sizes)
        self.seed = derived_seed(seed, "order")

    def __len__(self) -> int:
        return sum(self.loader.sizes)

    @property
    def n_batches(self) -> int:
        """Number of batches of an epoch."""
        return len(self.loader.sizes)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """Yield the batches of an epoch, from number `start` on."""
        batches = self.loader.batches(epoch, derived_seed(self.seed, "loader", epoch))
        return (torch.as_tensor(rows, dtype=torch.float32) for rows in islice(batches, start, None))
