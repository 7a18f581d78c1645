"""`python -m benchmarks.mixtures`: the marginal bound against the enumerated one, in steps at image
size and in nats on digits."""

from __future__ import annotations

from typing import Annotated

import torch
import typer

from benchmarks.timing import Step, adam_step, interleaved_medians, print_row
from uncollapse._utils.parameters import check_parameters
from uncollapse.data import load
from uncollapse.estimators import MixtureVAE

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
    """A step of Adam on a new model."""
    torch.manual_seed(SEED)
    model = MixtureVAE.build(
        check_parameters(MixtureVAE, {**SETTINGS, "inference": inference, "posterior": posterior}),
        N_PIXELS,
    )
    initialize_from_data(model, x.numpy())
    return adam_step(model, x)


def digits_nll(inference: str, seed: int, max_epochs: int) -> float:
    """Test NLL in nats, by 640 draws for each row, of a mixture of the ten digits."""
    train, test = load("digits", "train"), load("digits", "test")
    arguments = {
        **train.defaults,
        "n_components": N_COMPONENTS,
        "inference": inference,
        "max_epochs": max_epochs,
    }
    mixture = MixtureVAE(**arguments, random_state=seed, verbose=False).fit(train.X)
    n_importance = N_DRAWS // (
        N_COMPONENTS if inference == "enumerate" else 1
    )  # of which it has one for each component
    return -float(mixture.score_samples(test.X, n_importance).mean())


def main(
    seconds: Annotated[float, typer.Option(help="For each posterior.")] = 30.0,
    batch_size: int = 100,
    n_seeds: Annotated[int, typer.Option(help="For the likelihood.")] = 3,
    max_epochs: Annotated[int, typer.Option(help="For the likelihood.")] = 100,
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
