"""Facts for bug reports, and a self-test.

Imports happen inside functions, so that a broken package does not hide the other facts.
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
# Optional packages, by the extra that installs them.
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
ROUNDING = 1e-3  # relative error of float32


def versions() -> dict[str, str]:
    """Return versions of this library and of required and optional packages, without importing
    them."""
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
    """Describe the processor, its memory and the accelerators."""
    import torch

    memory, threads = memory_bytes(), torch.get_num_threads()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "CPU": f"{processor_name()}, {os.cpu_count()} logical cores, torch on {threads} threads",
        "memory": f"{memory / 2**30:.1f} GiB" if math.isfinite(memory) else "unknown",
        "CUDA": ", ".join(gpus) or "none",
        "MPS": "available" if torch.backends.mps.is_available() else "none",
    }


def data_places() -> dict[str, str]:
    """Return the folders that data sets are looked for in, and the location of each data set."""
    from uncollapse.data import NAMED
    from uncollapse.data.download import DATA_FOLDER_VARIABLE, cache_folder

    chosen = os.environ.get(DATA_FOLDER_VARIABLE)
    return {
        DATA_FOLDER_VARIABLE: _existence(Path(chosen)) if chosen else "not set",
        "cache": _existence(cache_folder()),
        **{name: named.whereabouts() for name, named in NAMED.items()},
    }


def _existence(folder: Path) -> str:
    return str(folder) if folder.is_dir() else f"{folder} (missing)"


SECTIONS: dict[str, Callable[[], dict[str, str]]] = {
    "versions": versions,
    "devices": devices,
    "data": data_places,
}


def self_test() -> str | None:
    """Train a small IL-LIDVAE on digits, save it, and load it.

    Returns:
        A description of the first check that failed, or None.
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
    except Exception as error:  # a broken installation can raise anything
        cause = f"{type(error).__name__}: {one_line(error)}"
        return f"a small model cannot be trained, saved and loaded ({cause})"


def _failures(vae: VAE, loaded: Any, X: np.ndarray) -> Iterator[str]:
    first, last = vae.history_["loss"].iloc[[0, -1]]
    if not last < first < math.inf:
        change = f"from {first:.4g} to {last:.4g} in {len(vae.history_)} epochs"
        yield f"the loss of a small model went {change}, not down"
    ratio, constant = _smallest_stretch(vae), vae.model_.decoder.constant
    if not ratio >= constant * (1 - ROUNDING):
        yield f"a small decoder stretches by {ratio:.4g}, less than its constant {constant:.4g}"
    if not (vae.transform(X) == loaded.transform(X)).all():
        yield "the latents of a small model change when it is saved and loaded"


def _smallest_stretch(vae: VAE) -> float:
    """Return the smallest |eta(z) - eta(z')| / |z - z'| over pairs of samples of the prior."""
    from uncollapse._utils.random import seeded

    with seeded(0):
        z = vae.model_.prior().sample((2, N_PAIRS))
    eta = vae.model_.decoder(z)
    return float(((eta[0] - eta[1]).norm(dim=-1) / (z[0] - z[1]).norm(dim=-1)).min())
