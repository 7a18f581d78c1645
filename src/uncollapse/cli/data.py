"""`uncollapse data list` and `uncollapse data fetch`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from uncollapse._utils.errors import ParameterError


@dataclass(frozen=True)
class ListData:
    """List the named data sets and where each is."""

    def run(self) -> None:
        from rich.console import Console
        from rich.table import Table

        from uncollapse.data import NAMED

        table = Table("name", "description", "location", box=None)
        for name, named in NAMED.items():
            table.add_row(name, named.description, named.whereabouts())
        Console().print(table)


@dataclass(frozen=True)
class FetchData:
    """Download a data set, unless it is on this machine already."""

    name: Annotated[str, typer.Argument(help="Name of a data set.")]

    def run(self) -> None:
        from uncollapse.data import NAMED

        if self.name not in NAMED:
            raise ParameterError(
                f"there is no data set {self.name!r}: expected one of {', '.join(NAMED)}."
            )
        for path in NAMED[self.name].fetch():
            typer.echo(path)
        typer.echo(f"{self.name} is ready")
