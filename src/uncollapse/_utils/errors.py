"""Errors and warnings that a user can act on, and helpers for their messages."""

from __future__ import annotations

import reprlib
from typing import Any

# Environment variable that makes the command line raise unexpected errors with their traceback.
DEBUG_VARIABLE = "UNCOLLAPSE_DEBUG"
MAX_BRIEF, MAX_QUOTED = 200, 400
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 4, 100, 100


class InputError(ValueError):
    """Base of the errors about unusable input. The message says what was expected, what came, and
    what to do.

    The command line prints the message and exits with 2.
    """


class DataError(InputError):
    """Rows, labels or documents cannot be used."""


class ParameterError(InputError):
    """An argument or a setting cannot be used."""


class FileError(InputError):
    """A file or a folder cannot be read or written."""


class LostDataError(DataError):
    """Data on disk could be read before and cannot be read any more. The state learned from them
    is kept."""


class NonFiniteLossError(ArithmeticError):
    """Training met a loss or gradient that is not finite; the estimator keeps the last good
    state."""


class CollapseWarning(UserWarning):
    """A posterior collapses during training."""


def one_line(error: object) -> str:
    """Return another library's error message on one line, shortened to `MAX_QUOTED` characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= MAX_QUOTED else text[: MAX_QUOTED - 3] + "..."


def brief(value: Any) -> str:
    """Return the `repr` of a value, shortened where it is long or deep, for an error message."""
    try:
        text = " ".join(_SHORT.repr(value).split())
    except ValueError:  # Python refuses to write integers of many thousand digits.
        return f"a huge {type(value).__name__}"
    return text if len(text) <= MAX_BRIEF else text[: MAX_BRIEF - 3] + "..."
