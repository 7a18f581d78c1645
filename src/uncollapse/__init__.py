"""Variational autoencoders whose latents cannot collapse, and the diagnosis of those that have.

Importing the package is cheap: torch comes with the first name that needs it.

Docstrings call two papers by short names. W21 is Wang, Blei & Cunningham 2021, "Posterior collapse and latent variable
non-identifiability". K23 is Kinoshita, Oono, Fukumizu, Yoshida & Maeda 2023, "Controlling posterior collapse by an inverse
Lipschitz constraint on the decoder network".
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from uncollapse._version import __version__

if TYPE_CHECKING:
    from uncollapse import adapters, classical, data, diagnostics, families, latent, maps, models, objectives, strategies
    from uncollapse.adapters import from_functions
    from uncollapse.contest import compare
    from uncollapse.diagnostics import (
        Certificate,
        Report,
        certify,
        compare_reports,
        diagnose,
        information_floor,
        inverse_lipschitz_for,
        is_identifiable,
    )
    from uncollapse.errors import CollapseWarning, InputError, NonFiniteLossError
    from uncollapse.estimators import VAE, MixtureVAE, SequenceVAE, load
    from uncollapse.presets import preset
    from uncollapse.sweeps import sweep
    from uncollapse.training.budget import Budget
    from uncollapse.training.monitor import CollapseMonitor

__all__ = [
    "VAE",
    "Budget",
    "Certificate",
    "CollapseMonitor",
    "CollapseWarning",
    "InputError",
    "MixtureVAE",
    "NonFiniteLossError",
    "Report",
    "SequenceVAE",
    "__version__",
    "adapters",
    "certify",
    "classical",
    "compare",
    "compare_reports",
    "data",
    "diagnose",
    "diagnostics",
    "families",
    "from_functions",
    "information_floor",
    "inverse_lipschitz_for",
    "is_identifiable",
    "latent",
    "load",
    "maps",
    "models",
    "objectives",
    "preset",
    "strategies",
    "sweep",
]

_HOMES = {
    "VAE": "uncollapse.estimators",
    "MixtureVAE": "uncollapse.estimators",
    "SequenceVAE": "uncollapse.estimators",
    "load": "uncollapse.estimators",
    "Budget": "uncollapse.training.budget",
    "CollapseMonitor": "uncollapse.training.monitor",
    "preset": "uncollapse.presets",
    "compare": "uncollapse.contest",
    "sweep": "uncollapse.sweeps",
    "from_functions": "uncollapse.adapters",
    "Certificate": "uncollapse.diagnostics",
    "Report": "uncollapse.diagnostics",
    "certify": "uncollapse.diagnostics",
    "compare_reports": "uncollapse.diagnostics",
    "diagnose": "uncollapse.diagnostics",
    "information_floor": "uncollapse.diagnostics",
    "inverse_lipschitz_for": "uncollapse.diagnostics",
    "is_identifiable": "uncollapse.diagnostics",
    "CollapseWarning": "uncollapse.errors",
    "InputError": "uncollapse.errors",
    "NonFiniteLossError": "uncollapse.errors",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in __all__:
        return import_module(f"uncollapse.{name}")
    raise AttributeError(f"module 'uncollapse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
