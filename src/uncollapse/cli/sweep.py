"""`uncollapse sweep`."""

import re
from pathlib import Path
from typing import Annotated

import typer

from uncollapse._utils.errors import ParameterError
from uncollapse.cli import options
from uncollapse.cli.endings import fail, resumable
from uncollapse.cli.settings import check_grid, read_grid, read_settings

MAX_SEEDS = 1000
SEED_RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?")

Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=V1,V2,...",
        help="Settings (see `uncollapse fit --help`) with the values to try. Lists stand in "
        "brackets. With --search also ranges. For example: inverse_lipschitz=0,.2,.5,1.5 "
        "hidden=[256],[512,512] learning_rate=1e-4..1e-2",
    ),
]
Seeds = Annotated[
    str, typer.Option(help="Seeds that each combination is trained with: 0-4, or 0,3,7.")
]
MinKL = Annotated[float, typer.Option(help="Minimum KL, in nats, of the model selected by NLL.")]
Output = Annotated[
    Path | None, options.output("Folder of the results.", "sweeps/ and the name of the data")
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help=options.RAY_HELP,
        show_default="local with Ray (pip install 'uncollapse[sweep]'), else none",
    ),
]
EarlyStopping = Annotated[
    bool, typer.Option("--early-stopping", help="On Ray, stop unpromising trials (ASHA).")
]
Search = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="On Ray, let Optuna choose N combinations, guided by earlier results.",
    ),
]


def sweep(
    data: options.DataSource,
    settings: Settings = None,
    seeds: Seeds = "0",
    model: options.Model = None,
    min_kl: MinKL = 0.0,
    config: options.Config = None,
    output: Output = None,
    labels: options.Labels = None,
    ray: Ray = None,
    early_stopping: EarlyStopping = False,
    search: Search = None,
    resume: options.Resume = False,
) -> None:
    """Train a model with all combinations of values and seeds, and find the best one.

    All are measured on a validation split, or on a fifth of the training data. Results are written
    as they come; after any interruption, the same command with --resume computes nothing twice.
    """
    given, grid = read_settings(config, []), read_grid(settings)
    numbers = read_seeds(seeds)
    check_grid(given, grid, model)  # before torch is imported and data are read
    import uncollapse as uc
    from uncollapse._utils.progress import spinner
    from uncollapse.data import hold_out

    with spinner(f"reading {data}"):
        train, held_out = hold_out(data, labels)
    folder = output or Path("sweeps") / train.name
    verbose = given.pop("verbose", True) is not False
    with resumable(folder):
        found = uc.sweep(
            train,
            {**{name: [value] for name, value in given.items()}, **grid},
            held_out=held_out,
            model=model,
            seeds=numbers,
            min_kl=min_kl,
            output=folder,
            resume=resume,
            ray=ray,
            stop_early=early_stopping,
            n_searched=search,
            verbose=verbose,
            tell=typer.echo,
        )
    typer.echo(f"\n{found}")
    if found.failures:
        n = len(found.failures)
        fail(f"{n} trials failed and are repeated by --resume: {found.failures[0]}", 1)


def read_seeds(text: str) -> list[int]:
    """Read seeds such as 0-4 or 0,3,7."""
    seeds: list[int] = []
    for part in text.split(","):
        ends = SEED_RANGE.fullmatch(part.strip())
        found = range(int(ends[1]), int(ends[2] or ends[1]) + 1) if ends else None
        if found is None or len(found) > MAX_SEEDS:
            raise ParameterError(
                f"--seeds expects whole numbers, such as 0-4 or 0,3,7, got {text!r}."
            )
        seeds += found
    return seeds
