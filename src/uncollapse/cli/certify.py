"""`uncollapse certify`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from uncollapse.cli import options


@dataclass(frozen=True)
class Certify:
    """Compute the bounds that a decoder's inverse Lipschitz constant guarantees on data, beside the
    quantities that they bound."""

    folder: options.RunFolder
    data: options.DataSource
    split: options.Split = "test"
    labels: options.Labels = None
    json: Annotated[
        Path | None,
        Option(help="JSON file to write.", show_default="certificate.json in the run"),
    ] = None
    n_samples: Annotated[int, Option(min=2, help="Samples of the prior.")] = 64
    n_importance: Annotated[
        int, Option(min=10, help="Importance samples of each example's posterior.")
    ] = 256
    seed: Annotated[int, Option(min=0, max=2**32 - 1, help="Seed of the samples of the prior.")] = 0
    overwrite: options.Overwrite = False

    def run(self) -> None:
        import uncollapse as uc

        estimator = uc.load(self.folder)
        path = self.json or self.folder / "certificate.json"
        options.check_reports(self.folder, [path], self.overwrite)
        certificate = uc.certify(
            estimator,
            options.read_data(self.data, self.split, self.labels).table(),
            name=self.folder.name,
            n_samples=self.n_samples,
            n_importance=self.n_importance,
            seed=self.seed,
        )
        typer.echo(repr(certificate))
        certificate.to_json(path, self.overwrite)
        typer.echo(f"\nwritten: {path}")
