"""Variational autoencoders whose latents cannot collapse, and the diagnosis of those that have.

Importing the package is cheap: torch comes with the first name that needs it.

Docstrings call two papers by short names. W21 is Wang, Blei & Cunningham 2021, "Posterior collapse
and latent variable non-identifiability". K23 is Kinoshita, Oono, Fukumizu, Yoshida & Maeda 2023,
"Controlling posterior collapse by an inverse Lipschitz constraint on the decoder network".
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from uncollapse._version import __version__

if TYPE_CHECKING:
    from uncollapse import (
        adapters,
        certificates,
        classical,
        data,
        diagnostics,
        families,
        latent,
        maps,
        measures,
        models,
        networks,
        objectives,
        strategies,
    )
    from uncollapse._utils.errors import (
        CollapseWarning,
        DataError,
        FileError,
        InputError,
        LostDataError,
        NonFiniteLossError,
        ParameterError,
    )
    from uncollapse.adapters import from_functions
    from uncollapse.certificates import (
        Certificate,
        certify,
        information_floor,
        inverse_lipschitz_for,
    )
    from uncollapse.diagnostics import Report, compare_reports, diagnose
    from uncollapse.diagnostics.monitor import CollapseMonitor
    from uncollapse.estimators import VAE, MixtureVAE, SequenceVAE, load
    from uncollapse.experiments.compare import compare
    from uncollapse.experiments.presets import preset
    from uncollapse.experiments.sweep import sweep
    from uncollapse.measures import is_identifiable
    from uncollapse.training.budget import Budget

__all__ = [
    "VAE",
    "Budget",
    "Certificate",
    "CollapseMonitor",
    "CollapseWarning",
    "DataError",
    "FileError",
    "InputError",
    "LostDataError",
    "MixtureVAE",
    "NonFiniteLossError",
    "ParameterError",
    "Report",
    "SequenceVAE",
    "__version__",
    "adapters",
    "certificates",
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
    "measures",
    "models",
    "networks",
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
    "CollapseMonitor": "uncollapse.diagnostics.monitor",
    "preset": "uncollapse.experiments.presets",
    "compare": "uncollapse.experiments.compare",
    "sweep": "uncollapse.experiments.sweep",
    "from_functions": "uncollapse.adapters",
    "Certificate": "uncollapse.certificates",
    "Report": "uncollapse.diagnostics",
    "certify": "uncollapse.certificates",
    "compare_reports": "uncollapse.diagnostics",
    "diagnose": "uncollapse.diagnostics",
    "information_floor": "uncollapse.certificates",
    "inverse_lipschitz_for": "uncollapse.certificates",
    "is_identifiable": "uncollapse.measures",
    "CollapseWarning": "uncollapse._utils.errors",
    "DataError": "uncollapse._utils.errors",
    "FileError": "uncollapse._utils.errors",
    "InputError": "uncollapse._utils.errors",
    "LostDataError": "uncollapse._utils.errors",
    "NonFiniteLossError": "uncollapse._utils.errors",
    "ParameterError": "uncollapse._utils.errors",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in __all__:
        return import_module(f"uncollapse.{name}")
    raise AttributeError(f"module 'uncollapse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
