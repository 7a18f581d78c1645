"""Interleaved timings, peak memory, and rows with their provenance."""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

from uncollapse._utils.machine import processor_name
from uncollapse.models import VAEModel
from uncollapse.objectives import Elbo

Step = Callable[[], Any]
Key = TypeVar("Key")


def interleaved_medians(
    steps: Mapping[Key, Step], seconds: float, device: str = "cpu"
) -> dict[Key, float]:
    """Return median seconds of each step. The steps take turns, so that other work on the machine
    affects all of them."""
    for step in steps.values():
        for _ in range(3):
            step()
    times: dict[Key, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, step in steps.items():
            _wait(device)
            start = time.perf_counter()
            step()
            _wait(device)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def adam_step(model: VAEModel, x: torch.Tensor) -> Step:
    """Return a training step of a model on the same rows each time."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        loss, _ = Elbo()(model, x, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def peak_mib(step: Step, device: str = "cpu") -> float:
    """Return the peak memory of the tensors of one call, beyond earlier tensors, in MiB."""
    step()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # A new thread has no memory cached from earlier steps.
    with ThreadPoolExecutor(1) as fresh:
        return fresh.submit(_traced_peak, step).result() / 2**20


def _traced_peak(step: Step) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        step()
    events = [
        event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    sizes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(itertools.accumulate(sizes, initial=0))


def print_row(**row: Any) -> None:
    """Print one JSON line with its provenance."""
    print(json.dumps({**row, **provenance()}), flush=True)


@cache
def provenance() -> dict[str, Any]:
    """Return commit, version and processor."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "commit": commit.stdout.strip() or None,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": processor_name(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
