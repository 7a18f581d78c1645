"""What a bug report needs: versions, devices, where data lie, and whether a small model trains as
it must.

Imports happen inside functions, so that a package that is broken does not keep the rest from being
told.
"""

from __future__ import annotations

import math
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uncollapse._utils.errors import one_line
from uncollapse._utils.machine import memory_bytes, processor_name
from uncollapse._version import __version__

if TYPE_CHECKING:
    import numpy as np

    from uncollapse.estimators import VAE

PACKAGES = ("torch", "lightning", "numpy", "scikit-learn")
# By extra, those that the library itself makes use of.
EXTRAS = {
    "parquet": ("pyarrow",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "pythae": ("pythae",),
    "scvi": ("scvi-tools",),
    "mcmc": ("numpyro", "arviz"),
    "tensorboard": ("tensorboard",),
    "sweep": ("ray", "optuna"),
}
MODEL: dict[str, Any] = {
    "latent_dim": 2,
    "inverse_lipschitz": 1.0,
    "hidden": (32,),
    "max_epochs": 5,
    "batch_size": 64,
    "random_state": 0,
    "verbose": False,
}
N_ROWS, N_PAIRS = 128, 256
ROUNDING = 1e-3  # of float32, relative


def versions() -> dict[str, str]:
    """Versions of this library, of what it stands on and of the optional packages, by name. None of
    them is imported."""
    optional = {
        f"{package} ({extra})": _installed_version(package)
        for extra, packages in EXTRAS.items()
        for package in packages
    }
    return {
        "uncollapse": __version__,
        "Python": platform.python_version(),
        "platform": platform.platform(),
        **{package: _installed_version(package) for package in PACKAGES},
        **optional,
    }


def _installed_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def devices() -> dict[str, str]:
    """The processor, its threads and memory, and the accelerators, by name."""
    import torch

    memory = memory_bytes()
    return {
        "CPU": f"{processor_name()}, {os.cpu_count()} logical cores, torch on "
        f"{torch.get_num_threads()} threads",
        "memory": f"{memory / 2**30:.1f} GiB" if math.isfinite(memory) else "unknown",
        "CUDA": ", ".join(
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        )
        or "none",
        "MPS": "available" if torch.backends.mps.is_available() else "none",
    }


def data_places() -> dict[str, str]:
    """The folders in which data sets are looked for, and where each data set is, by name."""
    from uncollapse.data import NAMED
    from uncollapse.data.download import DATA_FOLDER_VARIABLE, cache_folder

    chosen = os.environ.get(DATA_FOLDER_VARIABLE)
    return {
        DATA_FOLDER_VARIABLE: _existence(Path(chosen)) if chosen else "not set",
        "cache": _existence(cache_folder()),
        **{name: named.whereabouts() for name, named in NAMED.items()},
    }


def _existence(folder: Path) -> str:
    return str(folder) if folder.is_dir() else f"{folder}, which is not there"


SECTIONS: dict[str, Callable[[], dict[str, str]]] = {
    "versions": versions,
    "devices": devices,
    "data": data_places,
}


def self_test() -> str | None:
    """Train a small IL-LIDVAE on digits, save it, and load it.

    Returns:
        What does not hold that must, in a sentence; None where all of it holds.
    """
    try:
        from uncollapse.data import load
        from uncollapse.estimators import VAE
        from uncollapse.estimators import load as load_run

        X = load("digits").X[:N_ROWS]
        with tempfile.TemporaryDirectory(prefix="uncollapse-") as folder:
            vae = VAE(**MODEL).fit(X)
            loaded = load_run(vae.save(Path(folder) / "run"))
            return next(_failures(vae, loaded, X), None)
    except Exception as error:  # a broken installation may break in any way
        return f"a small model cannot be trained, saved and loaded ({type(error).__name__}: {one_line(error)})"


def _failures(vae: VAE, loaded: Any, X: np.ndarray) -> Iterator[str]:
    first, last = vae.history_["loss"].iloc[[0, -1]]
    if not last < first < math.inf:
        yield f"the loss of a small model went from {first:.4g} to {last:.4g} in {len(vae.history_)} epochs, not down"
    ratio, constant = _smallest_stretch(vae), vae.model_.decoder.constant
    if not ratio >= constant * (1 - ROUNDING):
        yield f"the decoder of a small model moves two points {ratio:.4g} times as far apart, less than its constant {constant:.4g}"
    if not (vae.transform(X) == loaded.transform(X)).all():
        yield "a small model gives other latents after it has been saved and loaded"


def _smallest_stretch(vae: VAE) -> float:
    """The smallest of |eta(z) - eta(z')| / |z - z'| over pairs of draws from the prior."""
    from uncollapse._utils.random import seeded

    with seeded(0):
        z = vae.model_.prior().sample((2, N_PAIRS))
    eta = vae.model_.decoder(z)
    return float(((eta[0] - eta[1]).norm(dim=-1) / (z[0] - z[1]).norm(dim=-1)).min())
