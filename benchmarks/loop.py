"""`python -m benchmarks.loop`: training steps of `uc.fit` against a bare loop, at image size."""

from __future__ import annotations

import statistics
import time
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.timing import print_row
from uncollapse import models
from uncollapse.estimators import VAE
from uncollapse.estimators.building import initialize_from_data
from uncollapse.estimators.settings import check_settings
from uncollapse.objectives import Elbo
from uncollapse.training import fit

SEED, N_ROWS, N_PIXELS = 0, 10_000, 784
SETTINGS = {"latent_dim": 64, "hidden": (512, 512), "inverse_lipschitz": 1.5, "family": "bernoulli"}


def new_model(rows: torch.Tensor) -> models.VAEModel:
    """Return a model with the initial parameters of `VAE.fit`."""
    torch.manual_seed(SEED)
    model = VAE.build(check_settings("VAE", SETTINGS), rows.shape[1])
    initialize_from_data(model, rows.numpy())
    return model


def bare_loop(rows: torch.Tensor, batch_size: int, epochs: int) -> float:
    """Return the seconds of an epoch in a bare loop, except the first."""
    model, objective = new_model(rows), Elbo()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for epoch in range(epochs):
        if epoch == 1:
            start = time.perf_counter()
        for index in torch.randperm(len(rows)).split(batch_size):
            loss, _ = objective(model, model.family.observe(rows[index]), 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return (time.perf_counter() - start) / (epochs - 1)


def our_loop(rows: torch.Tensor, batch_size: int, epochs: int) -> float:
    """Return the seconds of an epoch of `uc.fit`, except the first."""
    model = new_model(rows)
    history = fit(model, rows, max_epochs=epochs, batch_size=batch_size, seed=SEED, verbose=False)
    return float(history["seconds"].diff().mean())


def main(
    rounds: Annotated[int, typer.Option(help="Interleaved runs of each.")] = 11,
    epochs: Annotated[
        int, typer.Option(min=2, help="Epochs of 10,000 rows; the first is not counted.")
    ] = 3,
    batch_size: int = 100,
) -> None:
    """Print one JSON line for each loop, and one for the ratio."""
    rows = torch.as_tensor(np.random.default_rng(SEED).random((N_ROWS, N_PIXELS), dtype=np.float32))
    loops = {"bare loop": bare_loop, "uc.fit": our_loop}
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            times[name].append(loop(rows, batch_size, epochs))
    common = {"benchmark": "loop", "size": "image", "batch": batch_size, "seed": SEED}
    n_steps, medians = -(-N_ROWS // batch_size), {}
    for name, values in times.items():
        medians[name] = statistics.median(values)
        print_row(**common, contestant=name, milliseconds=round(1000 * medians[name] / n_steps, 3))
    ratio = medians["uc.fit"] / medians["bare loop"]
    print_row(**common, contestant="uc.fit / bare loop", ratio=round(ratio, 4))


if __name__ == "__main__":
    typer.run(main)
