"""Evaluate a model on batches of rows, on one device or on several side by side."""

from __future__ import annotations

import copy
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from queue import SimpleQueue
from typing import Generic, Literal, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from uncollapse._utils.errors import ParameterError, brief, one_line
from uncollapse._utils.progress import progress_bar
from uncollapse._utils.random import RowNoise
from uncollapse.models import LatentModel, to_device

# Decoder evaluations in one batch. Larger batches take more memory and are no faster.
EVALUATIONS_AT_ONCE = 4096
# Batches that wait for each device, so that none is idle while results are collected.
BATCHES_AHEAD = 2
Model = TypeVar("Model", bound=LatentModel)
Batch = TypeVar("Batch")
Result = TypeVar("Result")


class WorkerPool(Generic[Model]):
    """Map a function over batches, on a model or on copies of it in threads.

    Use it as a context manager; its exit waits for running batches. The threads keep the autocast
    state of the thread that makes the pool, and on the CPU they share its number of threads.

    Args:
        model: in evaluation mode.
        devices: the largest number of devices of the model's kind, "auto" for all GPUs, or the
            number of workers on the CPU. One device takes no threads.

    Raises:
        ParameterError: if `devices` is not such a number, or the model cannot be copied.
    """

    def __init__(self, model: Model, devices: int | Literal["auto"] = 1) -> None:
        self.model = model
        self._threads: ThreadPoolExecutor | None = None
        places = devices_like(model.placement.device, devices)
        if len(places) == 1:
            return
        self._idle: SimpleQueue[Model] = SimpleQueue()
        for each in (model, *(_copy_to(model, place) for place in places[1:])):
            self._idle.put(each)
        self._kind = kind = model.placement.device.type
        self._autocast = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        self._max_waiting = BATCHES_AHEAD * len(places)
        self._n_torch_threads = n = torch.get_num_threads()
        share = max(1, n // len(places)) if kind == "cpu" else n
        self._threads = ThreadPoolExecutor(
            len(places), initializer=torch.set_num_threads, initargs=(share,)
        )

    def map(
        self, function: Callable[[Model, Batch], Result], batches: Iterable[Batch]
    ) -> Iterator[Result]:
        """Yield function(model, batch) for each batch, in order, with few batches read ahead."""
        if self._threads is None:
            for batch in batches:
                yield function(self.model, batch)
            return
        waiting: deque[Future[Result]] = deque()
        for batch in batches:
            waiting.append(self._threads.submit(self._evaluate, function, batch))
            if len(waiting) > self._max_waiting:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _evaluate(self, function: Callable[[Model, Batch], Result], batch: Batch) -> Result:
        model = self._idle.get()
        device = model.placement.device
        try:
            # Tensors that a model makes without naming a device go to the current GPU.
            with (
                torch.cuda.device(device) if device.type == "cuda" else nullcontext(),
                torch.autocast(self._kind, *self._autocast),
            ):
                return function(model, batch)
        finally:
            self._idle.put(model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
            # Threads to come begin with the number that was set last.
            torch.set_num_threads(self._n_torch_threads)


def map_rows(
    model: Model | WorkerPool[Model],
    rows: np.ndarray,
    n_samples: int,
    purpose: str,
    function: Callable[[Model, Tensor, Tensor], Mapping[str, Tensor]],
    verbose: bool = False,
) -> dict[str, np.ndarray]:
    """Evaluate a function of rows and noise in batches that a decoder can take at once.

    Args:
        model: the model in evaluation mode, or a pool of workers.
        rows: shape (n, *features).
        n_samples: draws for each row.
        purpose: decides the noise, which belongs to the row, and labels the progress bar.
        function: maps a model, rows of shape (batch, *features) and standard normal noise of shape
            (samples, batch, latent_dim) to named tensors of shape (batch, ...).
        verbose: show a progress bar in a terminal.
    """
    pool = model if isinstance(model, WorkerPool) else WorkerPool(model)
    noise, shape = RowNoise(rows, purpose), (n_samples, pool.model.latent_dim)
    batches = _batches(pool.model.evaluations_in_memory(rows, n_samples))

    def evaluate(model: Model, batch: slice) -> dict[str, np.ndarray]:
        own = to_device(model, noise.normal(shape, batch).swapaxes(0, 1))
        tensors = function(model, to_device(model, rows[batch]), own)
        return {name: _to_array(tensor) for name, tensor in tensors.items()}

    found = defaultdict(list)
    with progress_bar(purpose, len(batches), verbose) as advance:
        for arrays in pool.map(evaluate, batches):
            for name, array in arrays.items():
                found[name].append(array)
            advance("")
    return {name: np.concatenate(arrays) for name, arrays in found.items()}


def _batches(costs: np.ndarray) -> list[slice]:
    """Cut rows into slices whose costs stay below `EVALUATIONS_AT_ONCE`, or into single rows."""
    batches, start, total = [], 0, 0
    for row, cost in enumerate(costs):
        if row > start and total + cost > EVALUATIONS_AT_ONCE:
            batches.append(slice(start, row))
            start, total = row, 0
        total += cost
    return [*batches, slice(start, len(costs))]


def _to_array(value: Tensor) -> np.ndarray:
    is_half = value.dtype in (torch.bfloat16, torch.float16)  # NumPy has no bfloat16.
    array: np.ndarray = (value.cpu().float() if is_half else value.cpu()).numpy()
    return array


def devices_like(own: torch.device, devices: int | Literal["auto"]) -> list[torch.device]:
    """List at most `devices` devices of one kind, the given one first; "auto" takes all GPUs.

    Raises:
        ParameterError: if `devices` is not such a number.

    >>> devices_like(torch.device("cpu"), 3), devices_like(torch.device("cpu"), "auto")
    ([device(type='cpu'), device(type='cpu'), device(type='cpu')], [device(type='cpu')])
    """
    is_count = isinstance(devices, int) and not isinstance(devices, bool) and devices >= 1
    if devices != "auto" and not is_count:
        raise ParameterError(
            f"devices expects a positive number of devices, or 'auto', got {brief(devices)}."
        )
    if own.type == "cuda":
        others = (index for index in range(torch.cuda.device_count()) if index != own.index)
        available = [own, *(torch.device("cuda", index) for index in others)]
    else:
        available = [own] * (devices if own.type == "cpu" and devices != "auto" else 1)
    return available if devices == "auto" else available[:devices]


def _copy_to(model: Model, device: torch.device) -> Model:
    try:
        return copy.deepcopy(model).to(device)
    except Exception as error:  # Models of any origin may raise anything.
        name = type(getattr(model, "source", model)).__name__
        raise ParameterError(
            f"several devices expect a model that can be copied, got {name} ({one_line(error)}): "
            "give devices=1."
        ) from None
