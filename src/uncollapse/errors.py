"""The errors that a user can act on."""


class InputError(ValueError):
    """Something that the user gave cannot be used: says what was expected, what came, and what to do.

    A `ValueError`, so that code written for scikit-learn catches it; the command line prints it and exits with 2.
    """


class NonFiniteLossError(ArithmeticError):
    """Training met a loss or gradient that is not finite; the estimator keeps the last good state."""


class CollapseWarning(UserWarning):
    """A posterior collapses while a model is trained."""
