"""`uncollapse sweep`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from uncollapse._utils.errors import ParameterError
from uncollapse.cli import options
from uncollapse.cli.endings import fail, resumable
from uncollapse.cli.settings import check_grid, read_grid, read_settings

MAX_SEEDS = 1000


@dataclass(frozen=True)
class Sweep:
    """Train a model with all combinations of values and seeds, and find the best one.

    All are measured on a validation part, or on a fifth of the training data. Results are written
    as they come; after any interruption, the same command with --resume computes nothing twice.
    """

    data: options.DataSource
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=V1,V2,...",
            help="Settings (see `uncollapse fit --help`) with the values to try. Lists stand in "
            "brackets. With --search also ranges. For example: inverse_lipschitz=0,.2,.5,1.5 "
            "hidden=[256],[512,512] learning_rate=1e-4..1e-2",
        ),
    ] = None
    seeds: Annotated[
        str, typer.Option(help="Seeds that each combination is trained with: 0-4, or 0,3,7.")
    ] = "0"
    model: options.Model = None
    min_kl: Annotated[
        float, typer.Option(help="The best model has the lowest NLL at a KL of at least this.")
    ] = 0.0
    config: options.Config = None
    output: Annotated[
        Path | None, options.output("Folder of the results.", "sweeps/ and the name of the data")
    ] = None
    labels: options.Labels = None
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help=options.RAY_HELP,
            show_default="local with Ray (pip install 'uncollapse[sweep]'), else none",
        ),
    ] = None
    early_stopping: Annotated[
        bool, typer.Option("--early-stopping", help="On Ray, stop unpromising trials (ASHA).")
    ] = False
    search: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="On Ray, let Optuna choose N combinations, guided by earlier results.",
        ),
    ] = None
    resume: options.Resume = False

    def run(self) -> None:
        given, grid = read_settings(self.config, []), read_grid(self.settings)
        seeds = read_seeds(self.seeds)
        check_grid(given, grid, self.model)  # before torch is imported and data are read
        from uncollapse._utils.progress import spinner
        from uncollapse.data import hold_out
        from uncollapse.experiments.sweep import sweep

        with spinner(f"reading {self.data}"):
            train, held_out = hold_out(self.data, self.labels)
        folder = self.output or Path("sweeps") / train.name
        verbose = given.pop("verbose", True) is not False
        with resumable(folder):
            found = sweep(
                train,
                {**{name: [value] for name, value in given.items()}, **grid},
                held_out=held_out,
                model=self.model,
                seeds=seeds,
                min_kl=self.min_kl,
                output=folder,
                resume=self.resume,
                ray=self.ray,
                stop_early=self.early_stopping,
                n_searched=self.search,
                verbose=verbose,
                tell=typer.echo,
            )
        typer.echo(f"\n{found}")
        if found.failures:
            fail(
                f"{len(found.failures)} trials failed and are repeated by --resume: "
                f"{found.failures[0]}",
                1,
            )


def read_seeds(text: str) -> list[int]:
    """Read seeds such as 0-4 or 0,3,7.

    Raises:
        ParameterError: if the text is not of this form.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        are_numbers = first.isdecimal() and (last.isdecimal() or not dash)
        if (
            not are_numbers
            or len(first) + len(last) >= 20
            or int(last or first) - int(first) >= MAX_SEEDS
        ):
            raise ParameterError(
                f"--seeds expects whole numbers, such as 0-4 or 0,3,7, got {text!r}."
            )
        seeds += range(int(first), int(last or first) + 1)
    return seeds
