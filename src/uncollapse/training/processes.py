"""Processes that train one model together, each on its share of every batch."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, distributed

from uncollapse._utils.errors import InputError, ParameterError, one_line
from uncollapse.models import BatchContext, LatentModel

if TYPE_CHECKING:
    from lightning.fabric import Fabric

GRACE_SECONDS = 10  # that a process waits at its end for the others


class Share(NamedTuple):
    """The rows of a batch that one process trains on.

    Attributes:
        start: index of the first row.
        size: number of rows; a process that has none trains on one row with weight 0.
        total: rows of the whole batch.
    """

    start: int
    size: int
    total: int

    @classmethod
    def from_rank(cls, total: int, rank: int, n_processes: int) -> Share:
        """Return the share of a process; shares differ by one row at most.

        >>> [Share.from_rank(5, rank, 2)[:2] for rank in range(2)]
        [(0, 2), (2, 3)]
        """
        start, end = rank * total // n_processes, (rank + 1) * total // n_processes
        return cls(start, end - start, total)

    @property
    def weight(self) -> float:
        """The share of the batch's rows."""
        return self.size / self.total

    def take(self, batch: Tensor) -> Tensor:
        """Return the rows of the share, at least one."""
        return batch[self.start : self.start + self.size] if self.size else batch[:1]


class SharedBatch(BatchContext):
    """A batch of which this process has a share: random numbers are those of one process.

    Args:
        share: the rows.
    """

    def __init__(self, share: Share) -> None:
        self.share = share

    def rows(self, draw: Callable[[int], Tensor], n: int, dim: int = 0) -> Tensor:
        """Return the share's part of draws for the whole batch."""
        return draw(self.share.total).narrow(dim, self.share.start if self.share.size else 0, n)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the whole batch, with the gradient of the share's own rows.

        Averaged over processes by the weights of their shares, the gradients of a function of this
        mean are those that one process would compute.
        """
        own = values.mean(0)
        whole = own.detach() * self.share.weight
        distributed.all_reduce(whole)
        return own + (whole - own.detach())


def hardware_of(model: LatentModel) -> dict[str, Any]:
    """Return Fabric's arguments for the device and the type of a model."""
    place = model.placement
    accelerator = {"cuda": "gpu"}.get(place.device.type, place.device.type)
    devices: Any = 1 if place.device.index is None else [place.device.index]
    precision = "64-true" if place.dtype == torch.float64 else "32-true"
    return {"accelerator": accelerator, "devices": devices, "precision": precision}


def start_fabric(hardware: Mapping[str, Any]) -> Fabric:
    """Return Lightning's Fabric on the hardware, once all processes of this machine run.

    Args:
        hardware: arguments of `lightning.fabric.Fabric`: accelerator, devices, num_nodes, strategy
            and precision.

    Raises:
        ParameterError: if Fabric cannot use the hardware.
    """
    from lightning.fabric import Fabric
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    for package in ("fabric", "pytorch"):  # their banners would go to standard error
        logging.getLogger(f"lightning.{package}").setLevel(logging.WARNING)
    try:
        fabric = Fabric(**hardware)
    except (MisconfigurationException, ValueError) as error:
        raise ParameterError(
            f"Lightning cannot train on this hardware: {one_line(error)}"
        ) from None
    if fabric.world_size > 1:
        _start_others(fabric.world_size // int(hardware.get("num_nodes", 1)), fabric.world_size)
        atexit.unregister(_leave)
        atexit.register(_leave)
    fabric.launch()
    return fabric


def _start_others(n_here: int, n_processes: int) -> None:
    """Run the whole program once more for each other device of the machine, unless torchrun has.

    Fabric would do the same, but kills this process when another one dies, before it can say so.

    Raises:
        ParameterError: if the program is not a file or a module.
    """
    if "LOCAL_RANK" in os.environ:
        return
    main = sys.modules["__main__"].__spec__
    if main is None and not os.path.isfile(sys.argv[0]):
        raise ParameterError(
            "training on several devices restarts the program, which is not a file here. Put it "
            "into a script, or start it by torchrun."
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(port))
    os.environ.setdefault("NODE_RANK", "0")
    os.environ.update(WORLD_SIZE=str(n_processes), LOCAL_RANK="0")
    program = [os.path.abspath(sys.argv[0])] if main is None else ["-m", main.name]
    for rank in range(1, n_here):
        command = [sys.executable, *program, *sys.argv[1:]]
        subprocess.Popen(command, env={**os.environ, "LOCAL_RANK": str(rank)})


def all_true(value: bool | Tensor, fabric: Fabric) -> bool:
    """Return whether a value is true in all processes, each of which must call this."""
    if fabric.world_size == 1:
        return bool(value)
    found = torch.tensor(int(bool(value)), device=fabric.device)
    distributed.all_reduce(found, distributed.ReduceOp.MIN)
    return bool(found)


def largest(value: int, fabric: Fabric) -> int:
    """Return the largest of the processes' values; each process must call this."""
    if fabric.world_size == 1:
        return value
    found = torch.tensor(value, device=fabric.device)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return int(found)


def gather(values: Tensor, fabric: Fabric) -> Tensor:
    """Return values of all processes in the order of their ranks, shape (n, ...), detached."""
    if fabric.world_size == 1:
        return values.detach()
    parts: list[Tensor] = [values] * fabric.world_size
    distributed.all_gather_object(parts, values.detach().cpu())
    return torch.cat(parts).to(values.device)


def is_death_of_process(error: RuntimeError, n_processes: int) -> bool:
    """Return whether an error says that another process has died."""
    return n_processes > 1 and (isinstance(error, distributed.DistError) or "gloo" in str(error))


def death_of_process(error: RuntimeError, n_processes: int, epoch: int) -> InputError:
    """Return the error to raise where another process has died, which is not waited for."""
    atexit.unregister(_leave)
    return InputError(
        f"one of {n_processes} processes that train together has died, in epoch {epoch} "
        f"({one_line(error)}). Find out why, such as too little memory, and resume from the last "
        "state (--resume)."
    )


def _leave() -> None:
    """Leave the group of processes together, as a process that ends before others makes them abort.

    A process also aborts where DistributedDataParallel outlives the group: it is collected first.
    """
    if not distributed.is_initialized():
        return
    gc.collect()
    try:
        if distributed.get_backend() == "gloo":
            distributed.monitored_barrier(timeout=timedelta(seconds=GRACE_SECONDS))
        else:
            distributed.barrier()
    except RuntimeError:  # a process that has died is not waited for
        pass
    finally:
        distributed.destroy_process_group()
