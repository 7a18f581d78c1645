"""`uncollapse data list` and `uncollapse data fetch`."""

from typing import Annotated

import typer

from uncollapse._utils.errors import ParameterError


def list_data() -> None:
    """List the named data sets and where each is."""
    from rich.console import Console
    from rich.table import Table

    from uncollapse.data import NAMED

    table = Table("name", "description", "location", box=None)
    for name, named in NAMED.items():
        table.add_row(name, named.description, named.whereabouts())
    Console().print(table)


def fetch_data(name: Annotated[str, typer.Argument(help="Name of a data set.")]) -> None:
    """Download a data set, unless it is on this machine already."""
    from uncollapse.data import NAMED

    if name not in NAMED:
        raise ParameterError(f"there is no data set {name!r}: expected one of {', '.join(NAMED)}.")
    for path in NAMED[name].fetch():
        typer.echo(path)
    typer.echo(f"{name} is ready")
