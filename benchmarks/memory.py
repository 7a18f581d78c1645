"""`python -m benchmarks.memory FOLDER`: peak memory and speed of training on data on disk."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import typer
from pyarrow.parquet import ParquetWriter

from benchmarks.scaling import SEED, peak_process_mib
from benchmarks.timing import print_row
from uncollapse.data import StoredParquet
from uncollapse.estimators import VAE
from uncollapse.training.budget import Budget

N_FEATURES, BATCH_SIZE = 512, 1000
# Rows of each write, and of each row group of Parquet.
ROWS_AT_ONCE = 2**15
GROUPS_IN_FILE = 16
# Small maps are for the sweep over sizes, which would take hours with large ones. Usual ones are
# for the comparison of speeds.
SMALL: dict[str, Any] = {"latent_dim": 8, "hidden": (64, 64)}
USUAL: dict[str, Any] = {"latent_dim": 32, "hidden": (256, 256)}


class Cost(NamedTuple):
    """Peak memory of a process in MiB, rows per second of its training, and the seconds before.

    Before training, data on disk are read once, and data in memory are loaded.
    """

    peak_mib: float
    rows_per_second: float
    seconds_before: float


def chunks(n_rows: int) -> Iterator[np.ndarray]:
    """Yield independent standard normal numbers, `ROWS_AT_ONCE` rows at a time."""
    chance = np.random.default_rng(SEED)
    for start in range(0, n_rows, ROWS_AT_ONCE):
        yield chance.standard_normal(
            (min(ROWS_AT_ONCE, n_rows - start), N_FEATURES), dtype=np.float32
        )


def write_npy(folder: Path, n_rows: int) -> Path:
    """Write one array into one file."""
    path = folder / "x.npy"
    with path.open("wb") as file:
        header = {
            "descr": np.dtype(np.float32).str,
            "fortran_order": False,
            "shape": (n_rows, N_FEATURES),
        }
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks(n_rows):
            chunk.tofile(file)
    return path


def write_parquet(folder: Path, n_rows: int) -> Path:
    """Write a folder of files of 1 GiB."""
    path = folder / "x"
    path.mkdir()
    schema = pa.schema([(f"x{index}", pa.float32()) for index in range(N_FEATURES)])
    for index, chunk in enumerate(chunks(n_rows)):
        if index % GROUPS_IN_FILE == 0:
            writer = ParquetWriter(path / f"{index // GROUPS_IN_FILE}.parquet", schema)
        writer.write_table(pa.Table.from_arrays(list(np.ascontiguousarray(chunk.T)), schema=schema))
        if index % GROUPS_IN_FILE == GROUPS_IN_FILE - 1:
            writer.close()
    writer.close()
    return path


WRITERS: dict[str, Callable[[Path, int], Path]] = {"npy": write_npy, "parquet": write_parquet}
READERS: dict[str, Callable[[Path], Any]] = {
    "memory": np.load,
    "npy": lambda path: np.load(path, mmap_mode="r"),
    "parquet": StoredParquet,
}


def fit_cost(source: str, path: Path, sizes: dict[str, Any], n_seen: int) -> Cost:
    """Return the cost of a `fit` that trains on `n_seen` rows."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    vae = VAE(
        **sizes, batch_size=BATCH_SIZE, max_epochs=1, random_state=SEED, device="cpu", verbose=False
    )
    # The decoder is evaluated once for each row.
    vae.fit(READERS[source](path), budget=Budget(evaluations=n_seen))
    last = vae.history_.iloc[-1]
    before = time.perf_counter() - start - last["seconds"]
    return Cost(peak_process_mib(), float(last["evaluations"] / last["seconds"]), float(before))


def in_fresh_process(source: str, path: Path, sizes: dict[str, Any], n_seen: int) -> Cost:
    """Return `fit_cost` in a new process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        return fresh.submit(fit_cost, source, path, sizes, n_seen).result()


def sweep(folder: Path, name: str, gib: float, share: float) -> None:
    """Print the cost of training on data of a size."""
    path = WRITERS[name](folder, n_rows(gib))
    cost = in_fresh_process(name, path, SMALL, n_rows(gib * share))
    print_row(
        **common(SMALL), contestant=name, gib=gib, rows=n_rows(gib), epochs=share, **rounded(cost)
    )
    remove(path)


def race(folder: Path, gib: float, rounds: int, share: float) -> None:
    """Print the costs of training from memory and from disk, in turns."""
    npy, parquet = (write(folder, n_rows(gib)) for write in WRITERS.values())
    paths = {"memory": npy, "npy": npy, "parquet": parquet}
    n_seen = n_rows(gib * share)
    found = [
        {name: in_fresh_process(name, path, USUAL, n_seen) for name, path in paths.items()}
        for _ in range(rounds)
    ]
    for name in paths:
        cost = Cost(*map(statistics.median, zip(*(costs[name] for costs in found), strict=True)))
        ratio = statistics.median(
            costs[name].rows_per_second / costs["memory"].rows_per_second for costs in found
        )
        told = {"gib": gib, "rows": n_rows(gib), "epochs": share, "rounds": rounds}
        print_row(**common(USUAL), contestant=name, **told, **rounded(cost), speed=round(ratio, 4))
    for path in {npy, parquet}:
        remove(path)


def n_rows(gib: float) -> int:
    """Return the number of rows of a size."""
    return round(gib * 2**30 / (4 * N_FEATURES))


def common(sizes: dict[str, Any]) -> dict[str, Any]:
    """Return the entries that all rows share."""
    return {
        "benchmark": "memory",
        "seed": SEED,
        **sizes,
        "n_features": N_FEATURES,
        "batch": BATCH_SIZE,
    }


def rounded(cost: Cost) -> dict[str, float]:
    """Return the entries of a cost."""
    return {name: round(value, 2) for name, value in cost._asdict().items()}


def remove(path: Path) -> None:
    """Remove a file or a folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def main(
    folder: Annotated[Path, typer.Argument(help="Folder for temporary data.", file_okay=False)],
    gib: Annotated[str, typer.Option(help="Comma-separated sizes of the sweep.")] = "1,5,20",
    race_gib: Annotated[float, typer.Option(help="Size in the comparison of speeds.")] = 1.0,
    rounds: Annotated[int, typer.Option(help="Rounds of that comparison; 0 skips it.")] = 5,
    epochs: Annotated[
        float,
        typer.Option(
            max=1, help="Share of the data that is trained on; all of them are read before."
        ),
    ] = 1.0,
) -> None:
    """Print one JSON line for each format and size, and one for each format's relative speed."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    for size in map(float, gib.split(",") if gib else ()):
        for name in WRITERS:
            sweep(folder, name, size, epochs)
    if rounds:
        race(folder, race_gib, rounds, epochs)


if __name__ == "__main__":
    typer.run(main)
