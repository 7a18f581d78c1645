"""Reconstructions, samples and latent traversals of a model, for the figures of a page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from uncollapse._utils.random import seeded
from uncollapse.adapters import AdaptedModel
from uncollapse.models import to_device

N_PICTURES = 10
# Traversals show this many of the strongest and of the weakest units.
N_TRAVERSED = 3
# Positions along a unit, in standard deviations of q(z).
STRIDES = (-2.0, -1.33, -0.67, 0.0, 0.67, 1.33, 2.0)

Rows = np.ndarray | list[str]


@runtime_checkable
class Reconstructs(Protocol):
    """A model with a mean of p(x|z)."""

    def expected(self, x: Tensor, z: Tensor) -> Tensor:
        """Return E[x|z], with the covariates of the rows x."""


@dataclass(frozen=True)
class Gallery:
    """Data and model outputs, as arrays of shape (n, d) or lists of n documents.

    Outputs are empty if the model does not tell the mean of p(x|z).

    Attributes:
        originals: the data.
        reconstructions: means of p(x|z) at the posterior means of the originals; for documents, the
            most probable symbol at each position.
        samples: means of p(x|z) at z drawn from the prior.
        traversals: means of p(x|z) along single units, by unit, the strongest first. The unit moves
            from -2 to 2 standard deviations of q(z) around its mean, starting from the posterior
            mean of the first original. Positions outside the support of p(z) are left out, and
            units with fewer than two others.
        image_shape: (height, width) if a row is an image.
    """

    originals: Rows
    reconstructions: Rows
    samples: Rows
    traversals: dict[int, Rows]
    image_shape: tuple[int, int] | None


@torch.no_grad()
def make_gallery(
    subject: AdaptedModel,
    rows: np.ndarray,
    means: np.ndarray,
    units: pd.DataFrame,
    image_shape: tuple[int, int] | None,
) -> Gallery:
    """Decode posterior means, draws from the prior, and traversals of single units.

    The rows are data as read, with their posterior means; `units` is the table of `UnitSums`.
    """
    with seeded(0):
        z = subject.model.draw_prior(len(rows))
    reconstructions = _decode(subject, rows, torch.as_tensor(means).to(z))
    if subject.vocabulary is not None:
        originals: Rows = _as_text(subject.vocabulary.decode(rows))
    else:
        # Covariates stand behind the data.
        originals = rows.reshape(len(rows), -1)[:, : np.shape(reconstructions)[1]]
    return Gallery(
        originals=originals,
        reconstructions=reconstructions,
        samples=_decode(subject, rows, z),
        traversals=_traverse(subject, rows[:1], torch.as_tensor(means[0]).to(z), units),
        image_shape=image_shape,
    )


def project_to_plane(means: np.ndarray) -> np.ndarray:
    """Project onto the two principal components; means of two units or fewer stay as they are."""
    if means.shape[1] <= 2:
        return np.pad(means, ((0, 0), (0, 2 - means.shape[1])))
    with np.errstate(invalid="ignore"):  # means without any variance have no shares of it
        return np.asarray(PCA(2, svd_solver="full").fit_transform(means))


def _decode(subject: AdaptedModel, rows: np.ndarray, codes: Tensor) -> Rows:
    """Decode the codes, with the covariates of the rows: a row for each code, or one for all."""
    if subject.decode is not None:
        return _as_text(subject.decode(codes.cpu().numpy()))
    if not isinstance(subject.model, Reconstructs):
        return rows.reshape(len(rows), -1)[:0]
    if len(rows) != len(codes):
        rows = np.repeat(rows, len(codes), 0)
    expected = subject.model.expected(to_device(subject.model, rows), codes)
    return np.asarray(expected.reshape(len(codes), -1).float().cpu())


def _as_text(documents: Iterable[str | Iterable[object]]) -> list[str]:
    return [each if isinstance(each, str) else " ".join(map(str, each)) for each in documents]


def _traverse(
    subject: AdaptedModel, row: np.ndarray, start: Tensor, units: pd.DataFrame
) -> dict[int, Rows]:
    """Decode codes along the strongest and the weakest units, starting from the code of a row."""
    if not subject.model.has_density or subject.model.n_places > 1:
        return {}
    ranked = units.sort_values("explained_share", ascending=False, kind="stable")["unit"].tolist()
    if len(ranked) > 2 * N_TRAVERSED:
        ranked = ranked[:N_TRAVERSED] + ranked[-N_TRAVERSED:]
    found = {}
    for unit in ranked:
        codes = start.repeat(len(STRIDES), 1)
        positions = units["mean"][unit] + np.array(STRIDES) * units["deviation"][unit]
        codes[:, unit] = torch.as_tensor(positions).to(codes)
        codes = codes[subject.model.in_support(codes)]
        if len(codes) > 1:  # The units of a simplex, for one, cannot move alone.
            found[int(unit)] = _decode(subject, row, codes)
    return found
