"""The long part of a diagnosis: rows that are looked at one by one, with noise that belongs to each
of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from uncollapse._utils.progress import progress_bar
from uncollapse._utils.random import RowNoise
from uncollapse.measures.worker_pool import WorkerPool, copied, devices_like
from uncollapse.models import LatentModel, to_device

# Decoder evaluations in one go; more would not be faster, and would only take memory.
EVALUATIONS_AT_ONCE = 4096
Given = TypeVar("Given")
Found = TypeVar("Found")
# What is found of rows, shape (batch, *features), at noise, shape (samples, batch, latent_dim):
# tensors of shape (batch, ...).
Look = Callable[[LatentModel, Tensor, Tensor], Mapping[str, Tensor]]


class RowMap:
    """Who looks at rows.

    Args:
        model: in evaluation.
        crew: by whom pieces are looked at side by side; by the model itself, one after the other,
            if not given.
    """

    def __init__(self, model: LatentModel, crew: WorkerPool | None = None) -> None:
        self.model, self._crew = model, crew

    def map(
        self, look: Callable[[LatentModel, Given], Found], pieces: Iterable[Given]
    ) -> Iterator[Found]:
        """What is found of each piece, in their order, whoever looks at it."""
        return (
            (look(self.model, piece) for piece in pieces)
            if self._crew is None
            else self._crew.map(look, pieces)
        )


@contextmanager
def row_map(model: LatentModel, devices: int | Literal["auto"]) -> Iterator[RowMap]:
    """RowMap on a model that devices of its kind share, each with a copy of it. What is found is
    the same as by one.

    Args:
        model: in evaluation.
        devices: at most so many; "auto" for all GPUs. On the CPU, so many workers.

    Raises:
        InputError: if `devices` is no such number, or the model cannot be copied.
    """
    places = devices_like(model.placement.device, devices)
    if len(places) == 1:
        yield RowMap(model)
        return
    with WorkerPool([model, *(copied(model, place) for place in places[1:])]) as crew:
        yield RowMap(model, crew)


def map_rows(
    model: LatentModel,
    rows: np.ndarray,
    n_samples: int,
    purpose: str,
    look: Look,
    verbose: bool = False,
    work: RowMap | None = None,
) -> dict[str, np.ndarray]:
    """What is found of each row, at standard normal noise that belongs to it, in batches that a
    decoder can take at once.

    Args:
        model: whose type and device the tensors get.
        rows: shape (n, *features).
        n_samples: draws for each row.
        purpose: what the noise is for, and the label of the progress bar.
        look: finds out, of a batch.
        verbose: show a progress bar where there is a terminal.
        work: by whom the rows are looked at.

    Returns:
        What `look` gives for all rows, by the same names.
    """
    work = RowMap(model) if work is None else work
    noise, shape = RowNoise(rows, purpose), (n_samples, model.latent_dim)
    batches = _batches(model.evaluations(rows, n_samples))

    def look_at(model: LatentModel, batch: slice) -> dict[str, np.ndarray]:
        own = to_device(model, noise.normal(shape, batch).swapaxes(0, 1))
        return {
            name: _array(value)
            for name, value in look(model, to_device(model, rows[batch]), own).items()
        }

    pieces = []
    with progress_bar(purpose, len(batches), verbose) as advance:
        for found in work.map(look_at, batches):
            pieces.append(found)
            advance("")
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _batches(costs: np.ndarray) -> list[slice]:
    """Slices of rows whose costs do not exceed what can be done at once, but for single rows."""
    batches, start, total = [], 0, 0
    for row, cost in enumerate(costs):
        if row > start and total + cost > EVALUATIONS_AT_ONCE:
            batches.append(slice(start, row))
            start, total = row, 0
        total += cost
    return [*batches, slice(start, len(costs))]


def _array(value: Tensor) -> np.ndarray:
    found = value.cpu()
    array: np.ndarray = (
        found.float() if found.dtype in (torch.bfloat16, torch.float16) else found
    ).numpy()
    return array
