"""Fitted estimators from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from uncollapse import estimators
from uncollapse._utils.errors import InputError
from uncollapse._utils.random import seeded
from uncollapse._utils.run_folders import damaged, read_history, read_run, read_weights
from uncollapse.estimators.base import Estimator
from uncollapse.estimators.building import available_devices, resolve_device
from uncollapse.estimators.settings import SETTINGS, check_settings, current_names, to_dict


def load(folder: str | Path) -> Estimator[Any, Any]:
    """Load a fitted estimator from a folder that `save` wrote, executing nothing from it.

    Raises:
        FileError: if the folder holds no saved model, a damaged one, or one of a newer version.
    """
    folder = Path(folder)
    run = read_run(folder)
    if run.estimator not in SETTINGS:
        raise damaged(folder, f"there is no estimator {run.estimator!r}")
    kind: type[Estimator[Any, Any]] = getattr(estimators, run.estimator)
    try:
        settings = check_settings(run.estimator, current_names(run.parameters))
        # The meta device has shapes without memory: the file may hold less than the settings say.
        with seeded(0), torch.device("meta"):
            model = kind.build(settings, run.n_features)
        model.decoder.set_constants(run.constants or ())
    except (InputError, RuntimeError) as error:
        raise damaged(folder, str(error)) from None
    model.load_state_dict(read_weights(folder, model.state_dict()), assign=True)
    _check_invariants(model, folder)
    if settings.device not in available_devices():
        settings.device = "auto"
    estimator = kind(**to_dict(settings))
    estimator.settings_, estimator.seed_ = settings, run.seed
    estimator.history_ = read_history(folder, kind.history_columns)
    try:
        estimator._restore(run)
    except InputError as error:
        raise damaged(folder, str(error)) from None
    estimator.model_ = model.to(resolve_device(settings.device)).eval().requires_grad_(False)
    return estimator


def _check_invariants(model: Any, folder: Path) -> None:
    """Raise `FileError` for changed values that training keeps fixed and guarantees rest on."""
    if not model.decoder.check_invariants():
        raise damaged(
            folder, "the decoder's embedding is not isometric, so that its constant would be untrue"
        )
    if not model.family.check_invariants():
        raise damaged(folder, "the family's scale is not the one that was set, or not positive")
    if not model.prior.check_invariants():
        raise damaged(
            folder, "the components of the prior are not as far apart as they were set to be"
        )
