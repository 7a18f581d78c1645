"""`uncollapse diagnose`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from uncollapse._utils.errors import ParameterError
from uncollapse.cli import options

Html = Annotated[
    Path | None, Option(help="HTML page to write.", show_default="report.html in the run")
]
Json = Annotated[
    Path | None, Option(help="JSON file to write.", show_default="report.json in the run")
]
NImportance = Annotated[
    int | None,
    Option(min=1, help="Importance samples per example.", show_default="until the NLL settles"),
]
Quick = Annotated[
    bool,
    Option("--quick", help="Skip refined posteriors, AIS and the certificate."),
]
Devices = Annotated[
    str, Option(help="Number of GPUs, or auto for all; on the CPU, number of threads.")
]


def diagnose(
    folder: options.RunFolder,
    data: options.DataSource,
    split: options.Split = "test",
    labels: options.Labels = None,
    html: Html = None,
    json: Json = None,
    n_importance: NImportance = None,
    quick: Quick = False,
    devices: Devices = "1",
    resume: Annotated[bool, Option("--resume", hidden=True)] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Report how much a model's latents say about data, and whether the model or the inference is
    to blame for a collapse."""
    if resume:
        raise ParameterError(
            "a diagnosis cannot be resumed: it takes seconds to minutes and begins anew. Leave "
            "out --resume."
        )
    import uncollapse as uc
    from uncollapse._utils.files import resolved

    estimator = uc.load(folder)
    page, numbers = html or folder / "report.html", json or folder / "report.json"
    if resolved(page) == resolved(numbers):
        raise ParameterError(f"--html and --json expect two files, got {page} for both.")
    options.check_reports(folder, [page, numbers], overwrite)
    number: Any = int(devices) if devices.isdecimal() else devices
    part = options.read_data(data, split, labels)
    report = uc.diagnose(
        estimator,
        part.table(),
        part.labels,
        name=folder.name,
        image_shape=part.image_shape,
        n_importance=n_importance,
        thorough=not quick,
        devices=number,
    )
    typer.echo(repr(report))
    report.to_html(page, overwrite=True)
    report.to_json(numbers, overwrite=True)
    typer.echo(f"\nwritten: {page}, {numbers}")
