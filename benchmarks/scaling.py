"""`python -m benchmarks.scaling`: growth of time and memory.

The quantities that grow are rows, latents, features, components, symbols and processes.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import typer

from benchmarks import sequences
from benchmarks.timing import Step, adam_step, interleaved_medians, peak_mib, print_row
from uncollapse.estimators import VAE, Estimator, MixtureVAE
from uncollapse.estimators.building import initialize_from_data
from uncollapse.estimators.settings import check_settings

SEED = 0
SIZES: dict[str, Any] = {"latent_dim": 32, "hidden": (256, 256)}
SEQUENCE_SIZES: dict[str, Any] = {**SIZES, "embedding_dim": 128, "hidden_dim": 256}
N_FEATURES, BATCH_SIZE = 512, 100
N_DOCUMENTS, LENGTH = 32, 20
# Values of the quantities while another one grows.
BASE = {**SIZES, "n_features": N_FEATURES, "batch": BATCH_SIZE}
SEQUENCE_BASE = {**SEQUENCE_SIZES, "batch": N_DOCUMENTS, "length": LENGTH}
# Epochs use larger batches. There are at least three, and enough to see this number of rows.
EPOCH_BATCH_SIZE, MIN_ROWS_SEEN = 1000, 20_000
# Processes get more time by this factor, because they have to start.
START_FACTOR = 5


class Cost(NamedTuple):
    """Median seconds and peak memory in MiB of a step or an epoch."""

    seconds: float
    peak_mib: float


# Returns the costs at each value, by model, given the values and the seconds for each measurement.
Measure = Callable[[Sequence[int], float], dict[str, list[Cost]]]


@dataclass(frozen=True)
class Sweep:
    """A quantity that grows while all others stay.

    Attributes:
        unit: the timed unit, a "step" or an "epoch".
        values: of the quantity.
        measure: measures the costs.
        base: all other quantities.
    """

    unit: str
    values: tuple[int, ...]
    measure: Measure
    base: Mapping[str, Any] = field(default_factory=lambda: BASE)


def of_steps(
    builders: Mapping[str, Callable[[int], Step]], values: Sequence[int], seconds: float
) -> dict[str, list[Cost]]:
    """Return costs of training steps, which take turns."""
    steps = {(name, value): build(value) for name, build in builders.items() for value in values}
    peaks = {key: peak_mib(step) for key, step in steps.items()}
    times = interleaved_medians(steps, seconds * len(steps))
    return {
        name: [Cost(times[name, value], peaks[name, value]) for value in values]
        for name in builders
    }


def of_processes(
    name: str, cost: Callable[[int], Cost], values: Sequence[int], seconds: float
) -> dict[str, list[Cost]]:
    """Return median costs, each measured in a new process; values take turns, at least once."""
    costs: dict[int, list[Cost]] = {value: [] for value in values}
    end = time.perf_counter() + START_FACTOR * seconds * len(values)
    while time.perf_counter() < end or not costs[values[0]]:
        for value in values:
            with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
                costs[value].append(fresh.submit(cost, value).result())
    return {
        name: [Cost(*map(statistics.median, zip(*found, strict=True))) for found in costs.values()]
    }


def step_of(kind: type[Estimator], n_features: int = N_FEATURES, **given: Any) -> Step:
    """Return a step of Adam on a new model of rows."""
    rows = random_rows(BATCH_SIZE, n_features)
    torch.manual_seed(SEED)
    model = kind.build(check_settings(kind.__name__, {**SIZES, **given}), n_features)
    initialize_from_data(model, rows)
    return adam_step(model, torch.as_tensor(rows))


def sequence_step(n_symbols: int) -> Step:
    """Return a step of Adam on a new model of sequences."""
    x = torch.randint(
        n_symbols - 2, (N_DOCUMENTS, LENGTH), generator=torch.Generator().manual_seed(SEED)
    ).float()
    return sequences.training_step(SEQUENCE_SIZES, n_symbols, x)


def epoch_cost(n_rows: int) -> Cost:
    """Return the cost of an epoch of `fit`, except the first.

    The memory is that of the process beyond a fit to few rows.
    """
    settings = {
        **SIZES,
        "batch_size": EPOCH_BATCH_SIZE,
        "random_state": SEED,
        "device": "cpu",
        "verbose": False,
    }
    VAE(**settings, max_epochs=2).fit(random_rows(BATCH_SIZE, N_FEATURES))
    before = peak_process_mib()
    vae = VAE(**settings, max_epochs=3 + MIN_ROWS_SEEN // n_rows).fit(
        random_rows(n_rows, N_FEATURES)
    )
    return Cost(float(vae.history_["seconds"].diff().median()), peak_process_mib() - before)


def shared_epoch_cost(n_processes: int) -> Cost:
    """Return the cost of an epoch of `uncollapse fit` in processes of one thread.

    The memory is that of the whole largest process.
    """
    settings = {
        "devices": n_processes,
        "device": "cpu",
        "random_state": SEED,
        "batch_size": EPOCH_BATCH_SIZE,
        "max_epochs": 4,
    }
    words = [f"{name}={value}" for name, value in settings.items()]
    sizes = [f"latent_dim={SIZES['latent_dim']}", f"hidden={','.join(map(str, SIZES['hidden']))}"]
    with TemporaryDirectory() as folder:
        np.save(Path(folder) / "x.npy", random_rows(MIN_ROWS_SEEN, N_FEATURES))
        command = [
            str(Path(sys.executable).with_name("uncollapse")),
            "fit",
            "x.npy",
            *words,
            *sizes,
            "-o",
            "run",
        ]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=folder, check=True, capture_output=True, env=one_thread)
        seconds = pd.read_csv(Path(folder) / "run" / "history.csv")["seconds"]
    return Cost(float(seconds.diff().median()), getrusage(RUSAGE_CHILDREN).ru_maxrss / 1024)


def random_rows(n_rows: int, n_features: int) -> np.ndarray:
    """Return independent standard normal numbers."""
    return np.random.default_rng(SEED).standard_normal((n_rows, n_features), dtype=np.float32)


def peak_process_mib() -> float:
    """Return the peak memory of this process by Linux; `getrusage` would include the parent's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


# A new sweep is an entry here. `of_processes` measures in separate processes, `of_steps` in this
# one.
SWEEPS: dict[str, Sweep] = {
    "rows": Sweep(
        "epoch",
        (1000, 4000, 16_000, 64_000, 256_000),
        partial(of_processes, "VAE", epoch_cost),
        {**BASE, "batch": EPOCH_BATCH_SIZE},
    ),
    "latent_dim": Sweep(
        "step",
        (2, 4, 8, 16, 32, 64, 128, 256),
        partial(of_steps, {"VAE": lambda n: step_of(VAE, latent_dim=n)}),
    ),
    "n_features": Sweep(
        "step",
        (64, 256, 1024, 4096, 16_384),
        partial(of_steps, {"VAE": lambda n: step_of(VAE, n_features=n)}),
    ),
    "n_components": Sweep(
        "step",
        (2, 4, 8, 16, 32, 64),
        partial(
            of_steps,
            {
                "marginal": lambda n: step_of(MixtureVAE, n_components=n, inference="marginal"),
                "enumerate": lambda n: step_of(MixtureVAE, n_components=n, inference="enumerate"),
            },
        ),
    ),
    "n_processes": Sweep(
        "epoch",
        tuple(2**power for power in range(max(2, (os.cpu_count() or 1).bit_length()))),
        partial(of_processes, "VAE", shared_epoch_cost),
        {**BASE, "batch": EPOCH_BATCH_SIZE, "rows": MIN_ROWS_SEEN},
    ),
    "vocabulary": Sweep(
        "step",
        (100, 300, 1000, 3000, 10_000, 30_000),
        partial(of_steps, {"SequenceVAE": sequence_step}),
        SEQUENCE_BASE,
    ),
}


def slopes(values: Sequence[int], costs: Sequence[Cost]) -> dict[str, float]:
    """Return least-squares slopes of log cost against log value.

    Slopes are over all values, and over the upper half, where constants weigh less.
    """
    half = max(2, -(-len(values) // 2))
    # The additional memory may be zero.
    logs = np.log(np.maximum(np.column_stack((values, costs)), 1e-9))
    return {
        f"{name}_slope{part}": round(float(np.polyfit(some[:, 0], some[:, column], 1)[0]), 3)
        for column, name in enumerate(("time", "memory"), start=1)
        for part, some in (("", logs), ("_upper_half", logs[-half:]))
    }


def main(
    sweeps: Annotated[str, typer.Option(help="Comma-separated names.")] = ",".join(SWEEPS),
    seconds: Annotated[float, typer.Option(help="Time for each value of each model.")] = 6.0,
    n_values: Annotated[
        int, typer.Option(min=2, help="At most so many values of each sweep, from the smallest.")
    ] = 100,
) -> None:
    """Print one JSON line for each value of each model, and one for its slopes."""
    unknown = set(sweeps.split(",")) - set(SWEEPS)
    if unknown:
        raise typer.BadParameter(
            f"there is no sweep {unknown.pop()!r}: expected {', '.join(SWEEPS)}."
        )
    for name in sweeps.split(","):
        sweep = SWEEPS[name]
        values = sweep.values[:n_values]
        base = {quantity: value for quantity, value in sweep.base.items() if quantity != name}
        for contestant, costs in sweep.measure(values, seconds).items():
            common = {
                "benchmark": "scaling",
                "sweep": name,
                "contestant": contestant,
                "unit": sweep.unit,
                "seed": SEED,
                **base,
            }
            for value, cost in zip(values, costs, strict=True):
                print_row(
                    **common,
                    value=value,
                    milliseconds=round(1000 * cost.seconds, 4),
                    peak_mib=round(cost.peak_mib, 3),
                )
            print_row(**common, values=values, **slopes(values, costs))


if __name__ == "__main__":
    typer.run(main)
