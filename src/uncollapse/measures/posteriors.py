"""The approximate posteriors q(z|x) of rows."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uncollapse._utils.errors import DataError
from uncollapse._utils.random import RowNoise
from uncollapse.measures.worker_pool import WorkerPool, map_rows
from uncollapse.models import LatentModel, component_kl, to_device

# Draws of z for each row where its KL or its component has no closed form.
N_POSTERIOR_DRAWS = 64


@dataclass(frozen=True)
class Posteriors:
    """The posteriors q(z|x) of n rows.

    Attributes:
        means: shape (n, latent_dim).
        variances: shape (n, latent_dim).
        kl: KL(q(z|x) || p(z)) in nats, with the component where the prior has several, shape (n,).
        kl_units: parts of `kl` by unit, shape (n, latent_dim), given the component where components
            are enumerated; None where the KL is not a sum over units, as for a flow.
        components: q(y|x), shape (n, c); None without components.
        kl_y: KL(q(y|x) || 1/c) in nats, shape (n,); None without components.
    """

    means: np.ndarray
    variances: np.ndarray
    kl: np.ndarray
    kl_units: np.ndarray | None
    components: np.ndarray | None
    kl_y: np.ndarray | None


def infer(model: LatentModel | WorkerPool[Any], rows: np.ndarray) -> Posteriors:
    """Compute the posteriors of rows, shape (n, *features), as the model observes them.

    Raises:
        DataError: if the posteriors are not finite.
    """
    own = model.model if isinstance(model, WorkerPool) else model
    found = map_rows(model, rows, _n_draws(own, rows), "posteriors", _infer)
    arrays: dict[str, Any] = {field.name: found.get(field.name) for field in fields(Posteriors)}
    posteriors = Posteriors(**arrays)
    if not np.isfinite(posteriors.means).all():
        raise DataError(
            "the posteriors of these data are not finite: expected data like those of the "
            "training; check their scale."
        )
    if not np.isfinite(posteriors.kl).all():
        raise DataError(
            "KL(q(z|x) || p(z)) is not finite on these data: the posterior has mass outside the "
            "prior's support, or the data are unlike those of the training."
        )
    return posteriors


@torch.inference_mode()
def _infer(model: LatentModel, x: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """Compute the fields of `Posteriors` that the model has."""
    latents = model.infer(x, noise)
    found = {
        "means": latents.q.mean,
        "variances": latents.q.variance,
        "kl": latents.kl if latents.kl.dim() == 1 else latents.kl.mean(0),
        "kl_units": model.kl_per_unit(latents),
        "components": latents.components,
    }
    if latents.components is not None:
        found["kl_y"] = _component_kl(model, x, noise, latents.components)
    return {name: value for name, value in found.items() if value is not None}


def _component_kl(model: LatentModel, x: Tensor, noise: Tensor, components: Tensor) -> Tensor:
    """KL(q(y|x) || 1/c), less the bias that halves of the draws show where q(y|x) is a mean over
    draws."""
    kl = component_kl(components)
    if len(noise) == 1:
        return kl
    halves = [model.infer(x, half).components for half in noise.chunk(2)]
    return 2 * kl - sum(component_kl(half) for half in halves if half is not None) / 2


@torch.inference_mode()
def _n_draws(model: LatentModel, rows: np.ndarray) -> int:
    """Number of draws of z for each row: 1 if the KL has a closed form, which uses none."""
    noise = RowNoise(rows[:1], "draws needed").normal((2, model.latent_dim)).swapaxes(0, 1)
    kl = model.infer(to_device(model, rows[:1]), to_device(model, noise)).kl
    return 1 if kl.dim() == 1 else N_POSTERIOR_DRAWS


def explained_share(means: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Compute Var_x E[z_d|x] / (Var_x E[z_d|x] + E_x Var[z_d|x]), between 0 (a collapsed unit) and
    1, whatever the scale of z. Means and variances of posteriors have shape (n, latent_dim)."""
    between, within = means.var(axis=0), variances.mean(axis=0)
    return np.asarray(between / (between + within))
