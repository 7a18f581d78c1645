"""`python -m benchmarks.scaling`: how time and memory grow with rows, latents, features,
components, symbols and processes."""

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
from uncollapse._utils.parameters import check_parameters
from uncollapse.estimators import VAE, Estimator, MixtureVAE

SEED = 0
SIZES: dict[str, Any] = {"latent_dim": 32, "hidden": (256, 256)}
SEQUENCE_SIZES: dict[str, Any] = {**SIZES, "embedding_dim": 128, "hidden_dim": 256}
N_FEATURES, BATCH_SIZE = 512, 100
N_DOCUMENTS, LENGTH = 32, 20
# What every quantity is where another one is swept.
BASE = {**SIZES, "n_features": N_FEATURES, "batch": BATCH_SIZE}
SEQUENCE_BASE = {**SEQUENCE_SIZES, "batch": N_DOCUMENTS, "length": LENGTH}
# Epochs are of larger batches, and go on until so many rows have been seen, but for three of them
# at least.
EPOCH_BATCH_SIZE, MIN_ROWS_SEEN = 1000, 20_000
# Processes have so many times as many seconds, as they start first.
START_FACTOR = 5


class Cost(NamedTuple):
    """The median seconds of a step or an epoch, and the most memory that it takes at a time, in
    MiB."""

    seconds: float
    peak_mib: float


# Costs at each of some values, by contestant, from the values and the seconds that there are for
# each measurement.
Measure = Callable[[Sequence[int], float], dict[str, list[Cost]]]


@dataclass(frozen=True)
class Sweep:
    """A quantity that grows while all others stay.

    Attributes:
        unit: what is timed, a "step" or an "epoch".
        values: of the quantity.
        measure: what finds the costs.
        base: all other quantities.
    """

    unit: str
    values: tuple[int, ...]
    measure: Measure
    base: Mapping[str, Any] = field(default_factory=lambda: BASE)


def of_steps(
    builders: Mapping[str, Callable[[int], Step]], values: Sequence[int], seconds: float
) -> dict[str, list[Cost]]:
    """Costs of training steps, all of which take turns."""
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
    """Medians of costs, each of which is found in a fresh process; values take turns, once at
    least."""
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
    """A step of Adam on a new model of rows."""
    rows = random_rows(BATCH_SIZE, n_features)
    torch.manual_seed(SEED)
    model = kind.build(check_parameters(kind, {**SIZES, **given}), n_features)
    initialize_from_data(model, rows)
    return adam_step(model, torch.as_tensor(rows))


def sequence_step(n_symbols: int) -> Step:
    """A step of Adam on a new model of sequences."""
    x = torch.randint(
        n_symbols - 2, (N_DOCUMENTS, LENGTH), generator=torch.Generator().manual_seed(SEED)
    ).float()
    return sequences.training_step(SEQUENCE_SIZES, n_symbols, x)


def epoch_cost(n_rows: int) -> Cost:
    """Of an epoch of `fit`, the first left out; the memory is that of the process, beyond what it
    takes to fit few rows."""
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
    """Of an epoch of `uncollapse fit` in so many processes of one thread; the memory is that of the
    largest, all of it."""
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
    """Independent standard normal numbers."""
    return np.random.default_rng(SEED).standard_normal((n_rows, n_features), dtype=np.float32)


def peak_process_mib() -> float:
    """The most memory that this process has had at a time, as Linux tells it: `getrusage` begins at
    what the parent had."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


# A further sweep is an entry here: what is timed, its values, and what measures them.
# `of_processes` measures in processes of their own, `of_steps` measures steps in this one.
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
    """Those of log cost against log value by least squares, over all values and over the upper
    half, where constants weigh less."""
    half = max(2, -(-len(values) // 2))
    logs = np.log(
        np.maximum(np.column_stack((values, costs)), 1e-9)
    )  # memory beyond what was there may be none
    return {
        f"{name}_slope{part}": round(float(np.polyfit(some[:, 0], some[:, column], 1)[0]), 3)
        for column, name in enumerate(("time", "memory"), start=1)
        for part, some in (("", logs), ("_upper_half", logs[-half:]))
    }


def main(
    sweeps: Annotated[str, typer.Option(help="Comma-separated names.")] = ",".join(SWEEPS),
    seconds: Annotated[float, typer.Option(help="For each value of each contestant.")] = 6.0,
    n_values: Annotated[
        int, typer.Option(min=2, help="Of each sweep at most, the smallest first.")
    ] = 100,
) -> None:
    """Print one JSON line for each value of each contestant, and one for the slopes of each
    contestant."""
    unknown = set(sweeps.split(",")) - set(SWEEPS)
    if unknown:
        raise typer.BadParameter(f"there is no {unknown.pop()!r}: expected {', '.join(SWEEPS)}.")
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
