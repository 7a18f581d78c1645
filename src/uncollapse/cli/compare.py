"""`uncollapse compare`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uncollapse._utils.errors import FileError, ParameterError
from uncollapse._utils.signals import deferred_interrupt
from uncollapse.cli import options
from uncollapse.cli.endings import describe_interruption, fail
from uncollapse.cli.settings import read_settings

if TYPE_CHECKING:
    from uncollapse.data import Data
    from uncollapse.diagnostics.comparison import Entry
    from uncollapse.estimators import Estimator


@dataclass(frozen=True)
class Compare:
    """Train models on the same budget, and compare them on held-out data.

    Held-out data are the test part of a named data set, or a fifth of a file. The first model takes
    its epochs. Every other model is trained twice: until it has evaluated the decoder as often, and
    until it has taken as many seconds. Ctrl-C writes the results so far.
    """

    data: options.DataSource
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Settings (see `uncollapse fit --help`), each for the models that have it and do "
            "not fix it themselves, for example: latent_dim=8 max_epochs=50",
        ),
    ] = None
    models: Annotated[
        str | None,
        typer.Option(
            "--models",
            "-m",
            help="Names with commas between. VAE, beta-VAE, annealed-VAE, cyclical-VAE, "
            "free-bits-VAE, IWAE, LR-VAE, SA-VAE, Lagging-VAE; for rows also LIDVAE, IL-LIDVAE, "
            "GMVAE, LIDMVAE (or LIDGMVAE), IL-LIDMVAE; for documents also delta-VAE, LIDSVAE, "
            "IL-LIDSVAE; the IL- models also with -annealed. The first one sets the budget.",
            show_default="eight for rows, seven for documents",
        ),
    ] = None
    config: options.Config = None
    output: Annotated[
        Path | None,
        options.output(
            "HTML page to write, with a .csv beside it.", "compare- and the data's name"
        ),
    ] = None
    labels: options.Labels = None
    n_importance: Annotated[int, typer.Option(min=1, help="Importance samples per example.")] = 64
    overwrite: options.Overwrite = False

    def run(self) -> None:
        from uncollapse.experiments.presets import check_comparison

        given = read_settings(self.config, self.settings)
        check_comparison(self._names(), given)  # before torch is imported and data are read
        from uncollapse._utils.progress import spinner
        from uncollapse.diagnostics.comparison import Comparison
        from uncollapse.experiments.compare import build_estimators, describe, load_split

        with spinner(f"reading {self.data}"):
            train, test = load_split(self.data, self.labels)
        kind = "text" if train.is_text else "table"
        estimators = build_estimators(self._names(), kind, given, train.defaults)
        page, table = self._check_output(train.name)
        notes = describe(self.data, train, test, estimators, given)
        typer.echo("\n".join(notes))
        entries, stop = self._train(estimators, train, test)
        found = Comparison(tuple(entries), notes)
        typer.echo(f"\n{found}")
        with deferred_interrupt():  # a second Ctrl-C must not cost the results
            found.to_csv(table, self.overwrite)
            found.to_html(page, self.overwrite)
        typer.echo(f"\nwritten: {page}, {table}")
        if isinstance(stop, KeyboardInterrupt):
            how, code = describe_interruption(type(stop))
            fail(f"{how}; the results so far are written", code)
        if stop is not None:
            raise stop

    def _train(
        self, estimators: Mapping[str, Estimator], train: Data, test: Data
    ) -> tuple[list[Entry], BaseException | None]:
        """Return the results, and what ended the comparison early if there are any by then."""
        from uncollapse.experiments.compare import Evaluation, run_comparison

        entries: list[Entry] = []
        evaluation = Evaluation(test.table(), test.labels, test.image_shape, self.n_importance)
        try:
            for entry in run_comparison(estimators, train.table(), evaluation):
                entries.append(entry)
                typer.echo(repr(entry))
        except (KeyboardInterrupt, Exception) as error:
            if not entries:
                raise
            return entries, error
        return entries, None

    def _names(self) -> list[str] | None:
        if self.models is None:
            return None
        return [name.strip() for name in self.models.split(",") if name.strip()]

    def _check_output(self, name: str) -> tuple[Path, Path]:
        """Return the paths of the page and of the table, once both can be written.

        Raises:
            InputError: if one cannot be written, or is a file that the comparison reads.
        """
        from uncollapse._utils.files import check_writable, resolved

        page = self.output or Path(f"compare-{name}.html")
        if not page.name or page.suffix == ".csv":
            example = page.with_suffix(".html") if page.name else "compare.html"
            raise ParameterError(
                f"--output expects the path of a page, such as {example}, got {page}. The table is "
                "written beside it."
            )
        table = page.with_suffix(".csv")
        sources = {resolved(path) for path in (self.data, self.config) if path is not None}
        for path in (page, table):
            if resolved(path) in sources:
                raise FileError(
                    f"{path} is read by the comparison and is not replaced. Choose another "
                    "--output."
                )
            check_writable(path, self.overwrite)
        return page, table
