"""Estimators with scikit-learn's interface: fit, transform, sample, score, save and load.

Importing the package is cheap: torch is loaded with the first estimator.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uncollapse.estimators.base import Estimator
    from uncollapse.estimators.loading import load
    from uncollapse.estimators.mixture import MixtureVAE
    from uncollapse.estimators.sequence import SequenceVAE
    from uncollapse.estimators.vae import VAE

__all__ = ["VAE", "Estimator", "MixtureVAE", "SequenceVAE", "load"]

_HOMES = {
    "VAE": "vae",
    "MixtureVAE": "mixture",
    "SequenceVAE": "sequence",
    "load": "loading",
    "Estimator": "base",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "Estimator":  # its registry is filled by the modules of its subclasses
        for home in _HOMES.values():
            import_module(f"{__name__}.{home}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
