"""`uncollapse reproduce`."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from uncollapse.cli import options
from uncollapse.cli.endings import resumable

Name = Annotated[
    str,
    Argument(
        help="k23-toy, k23-images, k23-text, w21-pinwheel, w21-images, w21-depth, "
        "w21-one-cluster, w21-text, w21-ppca or w21-gmm."
    ),
]
Scale = Annotated[
    str,
    Option(
        help="smoke (seconds), small (at most about ten minutes per model on 2 cores) or paper "
        "(the papers' sizes)."
    ),
]
Seeds = Annotated[
    int | None,
    Option(
        min=1,
        help="Number of seeds, from 0 on.",
        show_default="1 for smoke, 3, or 10 where the paper has ten",
    ),
]


def reproduce(
    experiment: Name,
    scale: Scale = "small",
    seeds: Seeds = None,
    output: Annotated[Path, options.output("Folder of the results.")] = Path("results"),
    resume: options.Resume = False,
    ray: Annotated[str, Option(metavar="ADDRESS", help=options.RAY_HELP)] = "none",
) -> None:
    """Recompute a figure or table of the papers, and print it beside the published numbers."""
    from uncollapse.experiments import papers
    from uncollapse.experiments.run import RunOptions

    where = RunOptions(ray, tell=typer.echo)
    with resumable(output):
        found = papers.reproduce(experiment, scale, seeds, output, resume, where)
    typer.echo(f"\n{found.fillna('').to_string(index=False)}")
