"""`python -m benchmarks.mixtures`: the marginal bound against the enumerated one.

Training steps are timed at image size, and likelihoods are compared on digits.
"""

from __future__ import annotations

from typing import Annotated

import torch
import typer

from benchmarks.timing import Step, adam_step, interleaved_medians, print_row
from uncollapse.data import load
from uncollapse.estimators import MixtureVAE
from uncollapse.estimators.building import initialize_from_data
from uncollapse.estimators.settings import check_settings

SEED, N_PIXELS, N_COMPONENTS = 0, 784, 10
SETTINGS = {
    "n_components": N_COMPONENTS,
    "latent_dim": 64,
    "hidden": (512, 512),
    "family": "bernoulli",
}
N_DRAWS = 640
BOUNDS = ("marginal", "enumerate")


def training_step(inference: str, posterior: str, x: torch.Tensor) -> Step:
    """Return a step of Adam on a new model."""
    torch.manual_seed(SEED)
    model = MixtureVAE.build(
        check_settings("MixtureVAE", {**SETTINGS, "inference": inference, "posterior": posterior}),
        N_PIXELS,
    )
    initialize_from_data(model, x.numpy())
    return adam_step(model, x)


def digits_nll(inference: str, seed: int, max_epochs: int) -> float:
    """Return the test NLL of a mixture on the ten digits, in nats, with 640 draws for each row."""
    train, test = load("digits", "train"), load("digits", "test")
    arguments = {
        **train.defaults,
        "n_components": N_COMPONENTS,
        "inference": inference,
        "max_epochs": max_epochs,
    }
    mixture = MixtureVAE(**arguments, random_state=seed, verbose=False).fit(train.X)
    # The enumerated bound draws one z for each component.
    n_draws_each = N_COMPONENTS if inference == "enumerate" else 1
    return -float(mixture.score_samples(test.X, N_DRAWS // n_draws_each).mean())


def main(
    seconds: Annotated[float, typer.Option(help="Time for each posterior.")] = 30.0,
    batch_size: int = 100,
    n_seeds: Annotated[int, typer.Option(help="Seeds of the likelihoods.")] = 3,
    max_epochs: Annotated[int, typer.Option(help="Epochs of the likelihoods.")] = 100,
) -> None:
    """Print one JSON line for each bound and one for their ratio, then one for each fit."""
    x = torch.rand(batch_size, N_PIXELS, generator=torch.Generator().manual_seed(SEED)).round()
    for posterior in ("gaussian", "realnvp"):
        times = interleaved_medians(
            {bound: training_step(bound, posterior, x) for bound in BOUNDS}, seconds
        )
        common = {
            "benchmark": "mixtures",
            "c": N_COMPONENTS,
            "posterior": posterior,
            "batch": batch_size,
            "seed": SEED,
        }
        for bound, value in times.items():
            print_row(**common, contestant=bound, milliseconds=round(1000 * value, 3))
        print_row(
            **common,
            contestant="enumerate / marginal",
            ratio=round(times["enumerate"] / times["marginal"], 3),
        )
    for seed in range(n_seeds):
        for bound in BOUNDS:
            nll = round(digits_nll(bound, seed, max_epochs), 3)
            print_row(
                benchmark="mixtures",
                data="digits",
                epochs=max_epochs,
                seed=seed,
                contestant=bound,
                nll_nats=nll,
            )


if __name__ == "__main__":
    typer.run(main)
