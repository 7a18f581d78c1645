"""Progress bars on the terminal, and silence elsewhere."""

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

_is_shown = False  # a bar, at this moment


@contextmanager
def spinner(label: str, shown: bool = True) -> Iterator[None]:
    """A sign of life on standard error for work that cannot be counted, if that is a terminal or a
    notebook."""
    with Console(stderr=True).status(label) if shown else nullcontext():
        yield


@contextmanager
def progress_bar(
    label: str, total: int | None, shown: bool = True
) -> Iterator[Callable[..., None]]:
    """A bar of `total` steps, or of an unknown number, on standard error, if that is a terminal or
    a notebook.

    Within another bar that is shown, there is none.

    Yields:
        A function that advances the bar by one step, or to a place that is given, and puts a note
        behind it.
    """
    global _is_shown
    console = Console(stderr=True)
    is_shown = shown and not _is_shown and (console.is_terminal or console.is_jupyter)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not is_shown,
    )
    with bar:
        _is_shown = _is_shown or is_shown
        task = bar.add_task(label, total=total, note="")

        def advance(note: str, place: float | None = None) -> None:
            bar.update(task, advance=1 if place is None else None, completed=place, note=note)

        try:
            yield advance
        finally:
            _is_shown = _is_shown and not is_shown
