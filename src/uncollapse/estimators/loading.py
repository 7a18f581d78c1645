"""Fitted estimators from disk."""

from __future__ import annotations

from pathlib import Path

import torch

from uncollapse import estimators
from uncollapse._utils.errors import InputError
from uncollapse._utils.parameters import check_parameters
from uncollapse._utils.random import seeded
from uncollapse._utils.run_folders import damaged, read_history, read_settings, read_weights
from uncollapse.estimators.base import Estimator
from uncollapse.estimators.building import available_devices, resolve_device
from uncollapse.estimators.settings import SETTINGS, current_names
from uncollapse.models import VAE


def load(folder: str | Path) -> Estimator:
    """A fitted estimator from the folder that `save` wrote. Nothing in the folder can be executed.

    Raises:
        InputError: if the folder holds no saved model, a damaged one, or one of a newer version.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    if settings.estimator not in SETTINGS:
        raise damaged(folder, f"there is no estimator {settings.estimator!r}")
    kind: type[Estimator] = getattr(estimators, settings.estimator)
    try:
        parameters = check_parameters(kind, current_names(settings.parameters))
        with (
            seeded(0),
            torch.device("meta"),
        ):  # shapes without memory, until the file has been found to hold the same
            model = kind.build(parameters, settings.n_features)
        model.decoder.set_constants(settings.constants or ())
    except (InputError, RuntimeError) as error:
        raise damaged(folder, str(error)) from None
    model.load_state_dict(read_weights(folder, model.state_dict()), assign=True)
    _check_soundness(model, folder)
    parameters["device"] = (
        parameters["device"] if parameters["device"] in available_devices() else "auto"
    )
    estimator = kind(**parameters)
    estimator.parameters_, estimator.seed_ = parameters, settings.seed
    estimator.history_ = read_history(folder, kind.history_columns)
    try:
        estimator._restore(settings)
    except InputError as error:
        raise damaged(folder, str(error)) from None
    estimator.model_ = model.to(resolve_device(parameters["device"])).eval().requires_grad_(False)
    return estimator


def _check_soundness(model: VAE, folder: Path) -> None:
    """Raise `InputError` where what training does not touch has been changed, and promises would be
    untrue."""
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
