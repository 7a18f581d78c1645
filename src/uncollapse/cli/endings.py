"""How commands end: exit codes, interruptions, and warnings that are printed once."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NoReturn

import typer

from uncollapse._utils.processes import is_first_process
from uncollapse._utils.signals import INTERRUPTS, Terminated

EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED = 2, 130, 143


def fail(message: str, code: int) -> NoReturn:
    """Print an error message on one line and exit. Of several processes, only the first prints."""
    if not is_first_process():
        sys.exit(code)
    if code in (EXIT_INTERRUPTED, EXIT_TERMINATED):  # a second signal would print a traceback
        for number in INTERRUPTS:
            signal.signal(number, signal.SIG_IGN)
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(code)


def describe_interruption(kind: type[BaseException]) -> tuple[str, int]:
    """Return the word for an interruption, and its exit code."""
    if issubclass(kind, Terminated):
        return "terminated", EXIT_TERMINATED
    return "interrupted", EXIT_INTERRUPTED


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Say after an interruption where the results so far are kept."""
    try:
        yield
    except KeyboardInterrupt as stop:
        how, code = describe_interruption(type(stop))
        kept = f"the results so far are in {folder}, and --resume continues with them"
        fail(f"{how}; {kept if folder.exists() else 'there are no results yet'}", code)


def print_each_warning_once() -> Callable[..., None]:
    """Return a `warnings.showwarning` that prints each message once, however often it comes."""

    @cache
    def show(sentence: str) -> None:
        typer.echo(f"note: {sentence}", err=True)

    return lambda message, *_, **__: show(str(message))
