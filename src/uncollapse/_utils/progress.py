"""Progress bars and spinners, shown only on a terminal or in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_is_shown = False  # whether a bar is shown at the moment


@contextmanager
def spinner(label: str, shown: bool = True) -> Iterator[None]:
    """Show a spinner on standard error during work whose length is unknown."""
    with Console(stderr=True).status(label) if shown else nullcontext():
        yield


@contextmanager
def progress_bar(
    label: str, total: int | None, shown: bool = True
) -> Iterator[Callable[..., None]]:
    """Show a bar of `total` steps, or of an unknown number, on standard error.

    Within another bar, nothing is shown.

    Yields:
        A function `advance(note, place=None)`, which advances the bar by one step or to a given
        place, and shows a note behind it.
    """
    global _is_shown
    console = Console(stderr=True)
    is_shown = shown and not _is_shown and (console.is_terminal or console.is_jupyter)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not is_shown) as bar:
        _is_shown = _is_shown or is_shown
        task = bar.add_task(label, total=total, note="")

        def advance(note: str, place: float | None = None) -> None:
            bar.update(task, advance=1 if place is None else None, completed=place, note=note)

        try:
            yield advance
        finally:
            _is_shown = _is_shown and not is_shown
