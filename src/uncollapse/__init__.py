"""Variational autoencoders that do not collapse, and diagnosis of those that do.

The names of `__init__.pyi` are imported when they are first used, so that importing the package
takes no time and loads no torch.

Docstrings call two papers by short names. W21 is Wang, Blei & Cunningham 2021, "Posterior collapse
and latent variable non-identifiability". K23 is Kinoshita, Oono, Fukumizu, Yoshida & Maeda 2023,
"Controlling posterior collapse by an inverse Lipschitz constraint on the decoder network".
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_MODULES = {
    alias.name: statement.module
    for statement in _STUB.body
    if isinstance(statement, ast.ImportFrom)
    for alias in statement.names
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'uncollapse' has no attribute {name!r}")
    if _MODULES[name] == __name__:
        return import_module(f"{__name__}.{name}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
