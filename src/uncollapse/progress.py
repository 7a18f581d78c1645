"""Progress bars on the terminal, and silence elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def spinner(label: str, shown: bool = True) -> Iterator[None]:
    """A sign of life on standard error for work that cannot be counted, if that is a terminal or a notebook."""
    with Console(stderr=True).status(label) if shown else nullcontext():
        yield


@contextmanager
def progress_bar(label: str, total: int | None, shown: bool = True) -> Iterator[Callable[..., None]]:
    """A bar of `total` steps, or of an unknown number, on standard error, if that is a terminal or a notebook.

    Yields:
        A function that advances the bar by one step, or to a place that is given, and puts a note behind it.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not (shown and (console.is_terminal or console.is_jupyter)),
    )
    with bar:
        task = bar.add_task(label, total=total, note="")

        def advance(note: str, place: float | None = None) -> None:
            bar.update(task, advance=1 if place is None else None, completed=place, note=note)

        yield advance
