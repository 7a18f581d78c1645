"""`uncollapse demo`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uncollapse.cli import options

if TYPE_CHECKING:
    from uncollapse.diagnostics import Report


@dataclass(frozen=True)
class Demo:
    """Train an ordinary VAE that collapses and an inverse-Lipschitz VAE that does not, on real
    data, in under 90 seconds."""

    output: Annotated[Path, options.output("HTML page to write.")] = Path("uncollapse-demo.html")
    seed: Annotated[int, typer.Option(help="Seed of all three trainings.")] = 0
    overwrite: options.Overwrite = False

    def run(self) -> None:
        from uncollapse.experiments.demo import run_demo

        _print_comparison(run_demo(self.output, self.seed, self.overwrite, tell=typer.echo))
        typer.echo(f"\nOpen {self.output.resolve()} in a browser.")


def _print_comparison(reports: Sequence[Report]) -> None:
    from rich.console import Console
    from rich.table import Table

    from uncollapse.diagnostics.page import side_by_side

    table = Table("", *(report.name for report in reports), box=None)
    for label, cells in [("", [report.verdict for report in reports]), *side_by_side(reports)]:
        table.add_row(label, *cells)
    Console().print("\n", table)
