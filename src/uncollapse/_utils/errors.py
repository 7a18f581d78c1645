"""The errors that a user can act on."""

from __future__ import annotations

import reprlib
from typing import Any

DEBUG_VARIABLE = (
    "UNCOLLAPSE_DEBUG"  # of the environment: what nobody has expected is raised as it is
)
MAX_BRIEF, MAX_QUOTED = 200, 400
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 4, 100, 100


class InputError(ValueError):
    """Something that the user gave cannot be used: says what was expected, what came, and what to
    do.

    A `ValueError`, so that code written for scikit-learn catches it; the command line prints it and
    exits with 2.
    """


class LostDataError(InputError):
    """Data that could be read before cannot be read any more. What was learned of them by then is
    kept."""


class NonFiniteLossError(ArithmeticError):
    """Training met a loss or gradient that is not finite; the estimator keeps the last good
    state."""


class CollapseWarning(UserWarning):
    """A posterior collapses while a model is trained."""


def one_line(error: object) -> str:
    """What another library complains of, on one line and shortened, as it may quote all of a
    file."""
    text = " ".join(str(error).split())
    return text if len(text) <= MAX_QUOTED else text[: MAX_QUOTED - 3] + "..."


def brief(value: Any) -> str:
    """What was given, for a message: its `repr`, shortened where it is long or deep."""
    try:
        text = " ".join(_SHORT.repr(value).split())
    except ValueError:  # a number of too many digits to be written
        return f"a huge {type(value).__name__}"
    return text if len(text) <= MAX_BRIEF else text[: MAX_BRIEF - 3] + "..."
