"""`uncollapse diagnose`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from uncollapse._utils.errors import ParameterError
from uncollapse.cli import options


@dataclass(frozen=True)
class Diagnose:
    """Report how much a model's latents say about data, and whether the model or the inference is
    to blame for a collapse."""

    folder: options.RunFolder
    data: options.DataSource
    split: options.Split = "test"
    labels: options.Labels = None
    html: Annotated[
        Path | None, Option(help="HTML page to write.", show_default="report.html in the run")
    ] = None
    json: Annotated[
        Path | None, Option(help="JSON file to write.", show_default="report.json in the run")
    ] = None
    n_importance: Annotated[
        int | None,
        Option(min=1, help="Importance samples per example.", show_default="until the NLL settles"),
    ] = None
    quick: Annotated[
        bool,
        Option("--quick", help="Skip refined posteriors, annealing and the certificate."),
    ] = False
    devices: Annotated[
        str, Option(help="Number of GPUs, or auto for all; on the CPU, number of processes.")
    ] = "1"
    resume: Annotated[bool, Option("--resume", hidden=True)] = False
    overwrite: options.Overwrite = False

    def run(self) -> None:
        if self.resume:
            raise ParameterError(
                "a diagnosis cannot be resumed: it takes seconds to minutes and begins anew. Leave "
                "out --resume."
            )
        import uncollapse as uc
        from uncollapse._utils.files import resolved

        estimator = uc.load(self.folder)
        page = self.html or self.folder / "report.html"
        numbers = self.json or self.folder / "report.json"
        if resolved(page) == resolved(numbers):
            raise ParameterError(f"--html and --json expect two files, got {page} for both.")
        options.check_reports(self.folder, [page, numbers], self.overwrite)
        part = options.read_data(self.data, self.split, self.labels)
        devices: Any = int(self.devices) if self.devices.isdecimal() else self.devices
        report = uc.diagnose(
            estimator,
            part.table(),
            part.labels,
            name=self.folder.name,
            image_shape=part.image_shape,
            n_importance=self.n_importance,
            thorough=not self.quick,
            devices=devices,
        )
        typer.echo(repr(report))
        report.to_html(page, overwrite=True)
        report.to_json(numbers, overwrite=True)
        typer.echo(f"\nwritten: {page}, {numbers}")
