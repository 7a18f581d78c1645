"""`python -m benchmarks.mixtures`: training steps of the marginal bound against those of the enumerated one, at image size."""

from __future__ import annotations

from typing import Annotated

import torch
import typer

from benchmarks.timing import Step, interleaved_medians, print_row
from uncollapse.estimators import MixtureVAE
from uncollapse.estimators.building import adapt
from uncollapse.objectives import elbo
from uncollapse.parameters import check_parameters

SEED, N_PIXELS, N_COMPONENTS = 0, 784, 10
SETTINGS = {"n_components": N_COMPONENTS, "latent_dim": 64, "hidden": (512, 512), "family": "bernoulli"}
BOUNDS = ("marginal", "enumerate")


def training_step(inference: str, posterior: str, x: torch.Tensor) -> Step:
    """A step of Adam on a new model."""
    torch.manual_seed(SEED)
    model = MixtureVAE.build(check_parameters(MixtureVAE, {**SETTINGS, "inference": inference, "posterior": posterior}), N_PIXELS)
    adapt(model, x.numpy())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        loss, _ = elbo(model, x, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main(
    seconds: Annotated[float, typer.Option(help="For each posterior.")] = 30.0,
    batch_size: int = 100,
) -> None:
    """Print one JSON line for each bound, and one for their ratio."""
    x = torch.rand(batch_size, N_PIXELS, generator=torch.Generator().manual_seed(SEED)).round()
    for posterior in ("gaussian", "realnvp"):
        times = interleaved_medians({bound: training_step(bound, posterior, x) for bound in BOUNDS}, seconds)
        common = {"benchmark": "mixtures", "c": N_COMPONENTS, "posterior": posterior, "batch": batch_size, "seed": SEED}
        for bound, value in times.items():
            print_row(**common, contestant=bound, milliseconds=round(1000 * value, 3))
        print_row(**common, contestant="enumerate / marginal", ratio=round(times["enumerate"] / times["marginal"], 3))


if __name__ == "__main__":
    typer.run(main)
