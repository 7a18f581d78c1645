"""`uncollapse compare`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uncollapse._utils.errors import FileError, ParameterError
from uncollapse._utils.signals import deferred_interrupt
from uncollapse.cli import options
from uncollapse.cli.endings import describe_interruption, fail
from uncollapse.cli.settings import read_settings

if TYPE_CHECKING:
    from uncollapse.diagnostics.comparison import Entry

Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings (see `uncollapse fit --help`) for the models that take them and do "
        "not fix them. For example: latent_dim=8 max_epochs=50",
    ),
]
Models = Annotated[
    str | None,
    typer.Option(
        "--models",
        "-m",
        help="Comma-separated names: VAE, beta-VAE, annealed-VAE, cyclical-VAE, "
        "free-bits-VAE, IWAE, LR-VAE, SA-VAE, Lagging-VAE; for rows also LIDVAE, IL-LIDVAE, "
        "GMVAE, LIDMVAE (or LIDGMVAE), IL-LIDMVAE; for documents also delta-VAE, LIDSVAE, "
        "IL-LIDSVAE; the IL- models also with -annealed. The first one sets the budget.",
        show_default="eight for rows, seven for documents",
    ),
]
Output = Annotated[
    Path | None,
    options.output("HTML page to write, with a .csv beside it.", "compare- and the data's name"),
]


def compare(
    data: options.DataSource,
    settings: Settings = None,
    models: Models = None,
    config: options.Config = None,
    output: Output = None,
    labels: options.Labels = None,
    n_importance: Annotated[int, typer.Option(min=1, help="Importance samples per example.")] = 64,
    overwrite: options.Overwrite = False,
) -> None:
    """Train models on the same budget, and compare them on held-out data.

    Held-out data are the test split of a named data set, or a fifth of a file. The first model
    trains for max_epochs. Every other model is trained twice: with the same number of decoder
    evaluations, and for the same time. Ctrl-C writes the results so far.
    """
    from uncollapse.experiments.presets import check_comparison

    names = None if models is None else [name.strip() for name in models.split(",") if name.strip()]
    given = read_settings(config, settings)
    check_comparison(names, given)  # before torch is imported and data are read
    from uncollapse._utils.progress import spinner
    from uncollapse.data import hold_out
    from uncollapse.diagnostics.comparison import Comparison
    from uncollapse.experiments import compare as library

    with spinner(f"reading {data}"):
        train, test = hold_out(data, labels, split="test")
    kind = "text" if train.is_text else "table"
    estimators = library.build_estimators(names, kind, given, train.defaults)
    page = output or Path(f"compare-{train.name}.html")
    table = _check_output(page, [path for path in (data, config) if path], overwrite)
    notes = library.describe(data, train, test, estimators, given)
    typer.echo("\n".join(notes))
    conditions = library.Conditions(test.table(), test.labels, test.image_shape, n_importance)
    entries, stop = _collect(library.run_comparison(estimators, train.table(), conditions))
    found = Comparison(tuple(entries), notes)
    typer.echo(f"\n{found}")
    with deferred_interrupt():  # a second Ctrl-C must not cost the results
        found.to_csv(table, overwrite)
        found.to_html(page, overwrite)
    typer.echo(f"\nwritten: {page}, {table}")
    if isinstance(stop, KeyboardInterrupt):
        how, code = describe_interruption(type(stop))
        fail(f"{how}; the results so far are written", code)
    if stop is not None:
        raise stop


def _check_output(page: Path, sources: Sequence[str | Path], overwrite: bool) -> Path:
    """Return the path of the table, once it and the page can be written and are not read."""
    from uncollapse._utils.files import check_writable, resolved

    if not page.name or page.suffix == ".csv":
        example = page.with_suffix(".html") if page.name else "compare.html"
        raise ParameterError(
            f"--output expects the path of a page, such as {example}, got {page}. The table is "
            "written beside it."
        )
    table, read = page.with_suffix(".csv"), {resolved(path) for path in sources}
    for path in (page, table):
        if resolved(path) in read:
            raise FileError(
                f"{path} is read by the comparison and is not replaced. Choose another --output."
            )
        check_writable(path, overwrite)
    return table


def _collect(comparison: Iterator[Entry]) -> tuple[list[Entry], BaseException | None]:
    """Print and return the results, and what ended the comparison early if there are any by
    then."""
    entries: list[Entry] = []
    try:
        for entry in comparison:
            entries.append(entry)
            typer.echo(repr(entry))
    except (KeyboardInterrupt, Exception) as error:
        if not entries:
            raise
        return entries, error
    return entries, None
