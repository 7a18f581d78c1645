"""`uncollapse certify`."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from uncollapse.cli import options

Json = Annotated[
    Path | None,
    Option(help="JSON file to write.", show_default="certificate.json in the run"),
]
NImportance = Annotated[int, Option(min=10, help="Importance samples of each example's posterior.")]
Seed = Annotated[int, Option(min=0, max=2**32 - 1, help="Seed of the draws from the prior.")]


def certify(
    folder: options.RunFolder,
    data: options.DataSource,
    split: options.Split = "test",
    labels: options.Labels = None,
    json: Json = None,
    n_samples: Annotated[int, Option(min=2, help="Draws from the prior.")] = 64,
    n_importance: NImportance = 256,
    seed: Seed = 0,
    overwrite: options.Overwrite = False,
) -> None:
    """Compute the bounds that a decoder's inverse Lipschitz constant guarantees on data, beside the
    quantities that they bound."""
    import uncollapse as uc

    estimator = uc.load(folder)
    path = json or folder / "certificate.json"
    options.check_reports(folder, [path], overwrite)
    certificate = uc.certify(
        estimator,
        options.read_data(data, split, labels).table(),
        name=folder.name,
        n_samples=n_samples,
        n_importance=n_importance,
        seed=seed,
    )
    typer.echo(repr(certificate))
    certificate.to_json(path, overwrite)
    typer.echo(f"\nwritten: {path}")
