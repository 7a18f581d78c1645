"""The entry point: the table of commands, and what happens when one fails.

Commands import torch and the data in their bodies, so that help and mistakes in arguments are
answered at once.
"""

import io
import os
import sys
import warnings
from typing import Annotated, NoReturn

import typer

from uncollapse._utils.errors import DEBUG_VARIABLE, InputError, NonFiniteLossError
from uncollapse._utils.processes import is_first_process
from uncollapse._utils.signals import INTERRUPTS, Interrupt, raise_interrupts
from uncollapse._version import __version__
from uncollapse.cli.certify import certify
from uncollapse.cli.compare import compare
from uncollapse.cli.data import fetch_data, list_data
from uncollapse.cli.demo import demo
from uncollapse.cli.diagnose import diagnose
from uncollapse.cli.doctor import doctor
from uncollapse.cli.endings import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    describe_interruption,
    fail,
    print_each_warning_once,
)
from uncollapse.cli.fit import fit
from uncollapse.cli.reproduce import reproduce
from uncollapse.cli.settings import HelpWithSettings
from uncollapse.cli.sweep import sweep

app = typer.Typer(
    name="uncollapse",
    help="Train variational autoencoders that do not collapse, and measure collapse in any VAE.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="List and download named data sets.", no_args_is_help=True)
for _command in (demo, doctor, fit, compare, diagnose, certify, sweep, reproduce):
    app.command(cls=HelpWithSettings if _command is fit else None)(_command)
data_app.command("list")(list_data)
data_app.command("fetch")(fetch_data)
app.add_typer(data_app, name="data")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"uncollapse {__version__}")
        raise typer.Exit


@app.callback()
def _options_of_all_commands(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line.

    Every failure ends in one sentence, never in a traceback; unusable input ends in exit code 2.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be valid text
    warnings.showwarning = print_each_warning_once()
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("default", category=UserWarning, module="uncollapse")
    if not is_first_process():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    with raise_interrupts() as interrupt:
        _run(interrupt)


def _run(interrupt: Interrupt) -> NoReturn:
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort) as error:
        fail(*describe_interruption(type(error)))
    except Exception as error:
        fail(*_explain(error))
    if code == EXIT_INTERRUPTED:  # typer turns KeyboardInterrupt into this code
        fail(*describe_interruption(INTERRUPTS.get(interrupt(), KeyboardInterrupt)))
    sys.exit(code)


def _explain(error: Exception) -> tuple[str, int]:
    """Return the sentence to print for an error, and the exit code."""
    if isinstance(error, InputError):
        return str(error), EXIT_BAD_INPUT
    if isinstance(error, NonFiniteLossError):
        return str(error), 1
    if isinstance(error, MemoryError):
        return f"out of memory ({error}). Use less data, fewer samples or a smaller model.", 1
    if hasattr(error, "format_message"):  # typer's errors about the command line
        message = error.format_message()
        if not message:  # no arguments were given, and typer has printed the help
            sys.exit(EXIT_BAD_INPUT)
        return f"{message} See uncollapse --help.", EXIT_BAD_INPUT
    if os.environ.get(DEBUG_VARIABLE):
        raise error
    return (
        f"unexpected {type(error).__name__}: {error} (set {DEBUG_VARIABLE}=1 for the traceback, "
        "and please report it)",
        1,
    )
