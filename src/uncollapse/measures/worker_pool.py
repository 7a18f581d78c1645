"""Several devices of a machine that look at pieces of data side by side, each by a copy of the
model."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from types import TracebackType
from typing import Literal, Self, TypeVar

import torch

from uncollapse._utils.errors import ParameterError, brief, one_line
from uncollapse.models import LatentModel

# Pieces that wait for each device, so that none is idle while results are taken down.
PIECES_AHEAD = 2
Given = TypeVar("Given")
Found = TypeVar("Found")


class WorkerPool:
    """Threads, each of which evaluates a copy of a model. To be used as a context manager, whose
    end waits for running pieces.

    What torch keeps for each thread is as in the thread that makes the crew: autocast, and on the
    CPU the number of threads for one operation, of which each gets its share.

    Args:
        copies: of one model, in evaluation, on devices of one kind.
    """

    def __init__(self, copies: Sequence[LatentModel]) -> None:
        self._idle: SimpleQueue[LatentModel] = SimpleQueue()
        for each in copies:
            self._idle.put(each)
        self._size, self._kind = len(copies), copies[0].placement.device.type
        self._autocast = torch.get_autocast_dtype(self._kind), torch.is_autocast_enabled(self._kind)
        self._n_threads = torch.get_num_threads()
        share = max(1, self._n_threads // self._size) if self._kind == "cpu" else self._n_threads
        self._pool = ThreadPoolExecutor(
            self._size, initializer=torch.set_num_threads, initargs=(share,)
        )

    def map(
        self, look: Callable[[LatentModel, Given], Found], pieces: Iterable[Given]
    ) -> Iterator[Found]:
        """What is found of each piece, in their order. Only so many are taken ahead as keep
        everybody busy."""
        waiting: deque[Future[Found]] = deque()
        for piece in pieces:
            waiting.append(self._pool.submit(self._look, look, piece))
            if len(waiting) > PIECES_AHEAD * self._size:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _look(self, look: Callable[[LatentModel, Given], Found], piece: Given) -> Found:
        model = self._idle.get()
        try:
            with _on(model.placement.device), torch.autocast(self._kind, *self._autocast):
                return look(model, piece)
        finally:
            self._idle.put(model)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._n_threads)  # which is what threads to come begin with, too


def devices_like(own: torch.device, devices: int | Literal["auto"]) -> list[torch.device]:
    """At most so many devices of a kind, the given one first; "auto" for all GPUs.

    Raises:
        InputError: if `devices` is no such number.

    >>> devices_like(torch.device("cpu"), 3), devices_like(torch.device("cpu"), "auto")
    ([device(type='cpu'), device(type='cpu'), device(type='cpu')], [device(type='cpu')])
    """
    if devices != "auto" and (
        not isinstance(devices, int) or isinstance(devices, bool) or devices < 1
    ):
        raise ParameterError(
            f"devices expects a positive number of devices, or 'auto', got {brief(devices)}."
        )
    if own.type == "cuda":
        there = [
            own,
            *(
                torch.device("cuda", index)
                for index in range(torch.cuda.device_count())
                if index != own.index
            ),
        ]
    else:
        there = [own] * (devices if own.type == "cpu" and devices != "auto" else 1)
    return there if devices == "auto" else there[:devices]


def copied(model: LatentModel, device: torch.device) -> LatentModel:
    """A copy of a model on another device of its kind.

    Raises:
        InputError: if it cannot be copied.
    """
    try:
        return copy.deepcopy(model).to(device)
    except Exception as error:  # whatever a model of any origin has to say
        name = type(getattr(model, "source", model)).__name__
        raise ParameterError(
            f"several devices expect a model that can be copied, got {name} ({one_line(error)}): "
            "give devices=1."
        ) from None


def _on(device: torch.device) -> AbstractContextManager[None]:
    """Where tensors go that a model makes without saying where."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
