"""Measures of trained models: public functions of a model and data that never train.

Each takes `model`, whatever `uncollapse.diagnose` takes, and its data `X`; or, in place of both, an
`Evaluation`, which has read the data once for several measures. Each returns an `Estimate`, a
number with its standard error (informations are in nats), or a record where several numbers belong
together. None stands for a number that is unknown for this kind of model.
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

# The names of `__init__.pyi` are imported when they are first used, as in `uncollapse` itself.
_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_MODULES = {
    alias.name: str(statement.module)
    for statement in _STUB.body
    if isinstance(statement, ast.ImportFrom)
    for alias in statement.names
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
