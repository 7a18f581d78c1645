"""`python -m benchmarks.engine`: training steps through the engine against the same steps in a bare
loop, at image size."""

from __future__ import annotations

import statistics
import time
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.timing import print_row
from uncollapse import models
from uncollapse._utils.parameters import check_parameters
from uncollapse.estimators import VAE
from uncollapse.objectives import Elbo
from uncollapse.training.batches import BatchesInMemory
from uncollapse.training.loop import COLUMNS, LoopSettings, Training, train

SEED, N_ROWS, N_PIXELS = 0, 10_000, 784
SETTINGS = {"latent_dim": 64, "hidden": (512, 512), "inverse_lipschitz": 1.5, "family": "bernoulli"}


def new_model(rows: np.ndarray) -> models.VAE:
    """A model as `VAE.fit` starts it."""
    torch.manual_seed(SEED)
    model = VAE.build(check_parameters(VAE, SETTINGS), rows.shape[1])
    initialize_from_data(model, rows)
    return model


def bare_loop(rows: torch.Tensor, batch_size: int, epochs: int) -> float:
    """Seconds of a step, the first epoch left out."""
    model = new_model(rows.numpy())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for epoch in range(epochs):
        if epoch == 1:
            start = time.perf_counter()
        for index in torch.randperm(len(rows)).split(batch_size):
            loss, _ = Elbo()(model, model.family.observe(rows[index]), 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return (time.perf_counter() - start) / ((epochs - 1) * -(-len(rows) // batch_size))


def engine(rows: torch.Tensor, batch_size: int, epochs: int) -> float:
    """Seconds of a step, the first epoch left out."""
    history: list[tuple[float, ...]] = []
    settings = LoopSettings(max_epochs=epochs, learning_rate=1e-3, seed=SEED, verbose=False)
    batches = BatchesInMemory(rows, batch_size, SEED)
    train(Training(new_model(rows.numpy()), Elbo(), batches, settings, history=history))
    seconds = COLUMNS.index("seconds")
    return (history[-1][seconds] - history[0][seconds]) / ((epochs - 1) * batches.n_batches)


def main(
    rounds: Annotated[int, typer.Option(help="Interleaved runs of each.")] = 11,
    epochs: Annotated[
        int, typer.Option(min=2, help="Of 10,000 rows, in each run; the first is not counted.")
    ] = 3,
    batch_size: int = 100,
) -> None:
    """Print one JSON line for each, and one for their ratio."""
    rows = torch.as_tensor(np.random.default_rng(SEED).random((N_ROWS, N_PIXELS), dtype=np.float32))
    times: dict[str, list[float]] = {"bare loop": [], "engine": []}
    for _ in range(rounds):
        times["bare loop"].append(bare_loop(rows, batch_size, epochs))
        times["engine"].append(engine(rows, batch_size, epochs))
    common = {"benchmark": "engine", "size": "image", "batch": batch_size, "seed": SEED}
    for name, values in times.items():
        print_row(
            **common, contestant=name, milliseconds=round(1000 * statistics.median(values), 3)
        )
    ratio = statistics.median(times["engine"]) / statistics.median(times["bare loop"])
    print_row(**common, contestant="engine / bare loop", ratio=round(ratio, 4))


if __name__ == "__main__":
    typer.run(main)
