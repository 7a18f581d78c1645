"""`uncollapse demo`."""

from pathlib import Path
from typing import Annotated

import typer

from uncollapse.cli import options


def demo(
    output: Annotated[Path, options.output("HTML page to write.")] = Path("uncollapse-demo.html"),
    seed: Annotated[int, typer.Option(help="Seed of all three trainings.")] = 0,
    overwrite: options.Overwrite = False,
) -> None:
    """Train an ordinary VAE that collapses and an inverse-Lipschitz VAE that does not, on real
    data, in under 90 seconds."""
    from rich.console import Console
    from rich.table import Table

    from uncollapse.diagnostics.page import side_by_side
    from uncollapse.experiments.demo import run_demo

    reports = run_demo(output, seed, overwrite, tell=typer.echo)
    table = Table("", *(report.name for report in reports), box=None)
    for label, cells in [("", [report.verdict for report in reports]), *side_by_side(reports)]:
        table.add_row(label, *cells)
    Console().print("\n", table)
    typer.echo(f"\nOpen {output.resolve()} in a browser.")
