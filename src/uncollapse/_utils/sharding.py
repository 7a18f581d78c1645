"""Batches that processes share: each draws for all rows and keeps what belongs to its own, so that
the sum is one batch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor, distributed


class Share(NamedTuple):
    """The rows of a batch that are this process's.

    Attributes:
        start: the first.
        size: how many; a process that has none goes along with a row that counts for nothing.
        total: rows of the batch.
    """

    start: int
    size: int
    total: int

    @classmethod
    def of(cls, total: int, process: int, n_processes: int) -> Share:
        """One of as many shares, which differ by a row at most.

        >>> [Share.of(5, process, 2)[:2] for process in range(2)]
        [(0, 2), (2, 3)]
        """
        start, end = process * total // n_processes, (process + 1) * total // n_processes
        return cls(start, end - start, total)

    def take(self, batch: Tensor) -> Tensor:
        """The rows of the share, at least one."""
        return batch[self.start : self.start + self.size] if self.size else batch[:1]


_share: ContextVar[Share | None] = ContextVar("share", default=None)


def current_share() -> Share | None:
    """This process's share of the running batch; None where it is all."""
    return _share.get()


@contextmanager
def sharing(share: Share | None) -> Iterator[None]:
    """Within the block, a batch is a share of one; None where it is all."""
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)


def draw_rows(draw: Callable[[int], Tensor], n: int, dim: int = 0) -> Tensor:
    """`draw(n)`, or, of a share, the draws for its rows out of those for the whole batch.

    Args:
        draw: returns draws for so many rows.
        n: rows.
        dim: that counts them in what `draw` returns.
    """
    share = _share.get()
    return (
        draw(n)
        if share is None
        else draw(share.total).narrow(dim, share.start if share.size else 0, n)
    )


def batch_mean(values: Tensor) -> Tensor:
    """The mean over the first dimension; of a share, the mean over the whole batch, with the
    gradient of its own rows.

    What is no mean over rows, but a function of one, takes it from here. Averaged over processes by
    the sizes of their shares, its gradients are then those of one process.
    """
    own, share = values.mean(0), _share.get()
    if share is None:
        return own
    whole = own.detach() * (share.size / share.total)
    distributed.all_reduce(whole)
    return own + (whole - own.detach())


def gather(values: Tensor) -> Tensor:
    """Values of all shares, each of shape (n, ...), one after the other in the order of their
    processes, without gradients.

    Of a process that has no rows, they are those of the row that it goes along with, once more.
    """
    if _share.get() is None:
        return values.detach()
    parts: list[Tensor] = [values] * distributed.get_world_size()
    distributed.all_gather_object(parts, values.detach().cpu())
    return torch.cat(parts).to(values.device)
