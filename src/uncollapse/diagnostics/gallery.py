"""What a model makes of some data, for the eye."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from uncollapse._utils.random import seeded
from uncollapse.adapters import AdaptedModel
from uncollapse.models import to_device

N_PICTURES = 10
# Of the strongest and of the weakest units; and the places along each of them, in deviations of
# q(z).
N_TRAVERSED = 3
STRIDES = (-2.0, -1.33, -0.67, 0.0, 0.67, 1.33, 2.0)

Rows = np.ndarray | list[str]


@dataclass(frozen=True)
class Gallery:
    """Data beside what the model makes of them: arrays of shape (n, d), or lists of n documents.

    Attributes:
        originals: the data.
        reconstructions: means of p(x|z) at the posterior means of the originals; of documents, the
            most probable symbols one after the other.
        samples: the same at z drawn from the prior.
        traversals: the same along single units, by their numbers, the strongest first: from the
            first original's posterior mean, the unit goes from -2 to 2 deviations of q(z) around
            its mean.
        image_shape: (height, width) where a row is an image.
    """

    originals: Rows
    reconstructions: Rows
    samples: Rows
    traversals: dict[int, Rows]
    image_shape: tuple[int, int] | None


@torch.no_grad()
def gallery(
    subject: AdaptedModel,
    rows: np.ndarray,
    means: np.ndarray,
    units: pd.DataFrame,
    image_shape: tuple[int, int] | None,
) -> Gallery:
    """Pictures of some rows.

    Args:
        subject: the model, in evaluation.
        rows: shape (n, *features), as they are read.
        means: their posterior means, shape (n, latent_dim).
        units: a row for each unit, as `Units.table` has it.
        image_shape: of the rows.
    """
    with seeded(0):
        z = subject.model.draw_prior(len(rows))
    reconstructions, samples = (
        _made_of(subject, rows, torch.as_tensor(means).to(z)),
        _made_of(subject, rows, z),
    )
    traversals = {
        unit: _made_of(subject, rows[:1], torch.as_tensor(codes).to(z))
        for unit, codes in _traversed(subject, means[0], units)
    }
    return Gallery(
        _originals(subject, rows, reconstructions),
        reconstructions,
        samples,
        traversals,
        image_shape,
    )


def in_two_dimensions(means: np.ndarray) -> np.ndarray:
    """The means themselves, or their two principal components, shape (n, 2)."""
    if means.shape[1] <= 2:
        return np.pad(means, ((0, 0), (0, 2 - means.shape[1])))
    with np.errstate(invalid="ignore"):  # wholly collapsed means have no shares of variance
        return np.asarray(PCA(2, svd_solver="full").fit_transform(means))


def _made_of(subject: AdaptedModel, rows: np.ndarray, codes: Tensor) -> Rows:
    """What the model makes of codes; with the covariates of the rows where it has some, of one row
    for all codes or of each."""
    if subject.decode is not None:
        return _texts(subject.decode(codes.cpu().numpy()))
    x = to_device(
        subject.model, rows if len(rows) == len(codes) else np.repeat(rows, len(codes), 0)
    )
    expected = subject.model.expected(x, codes)
    return expected.reshape(len(codes), -1).float().cpu().numpy()


def _originals(subject: AdaptedModel, rows: np.ndarray, reconstructions: Rows) -> Rows:
    if subject.vocabulary is not None:
        return _texts(subject.vocabulary.decode(rows))
    assert isinstance(reconstructions, np.ndarray)
    return rows.reshape(len(rows), -1)[
        :, : reconstructions.shape[1]
    ]  # covariates stand behind the data


def _texts(documents: Sequence[str | Sequence[object]]) -> list[str]:
    return [each if isinstance(each, str) else " ".join(map(str, each)) for each in documents]


def _traversed(
    subject: AdaptedModel, start: np.ndarray, units: pd.DataFrame
) -> list[tuple[int, np.ndarray]]:
    """The numbers of the strongest and the weakest units, and the codes along them, shape (7,
    latent_dim)."""
    model = subject.model
    if not model.has_density or model.n_places > 1:
        return []
    ranked = units.sort_values("explained_share", ascending=False, kind="stable")["unit"].tolist()
    some = (
        ranked if len(ranked) <= 2 * N_TRAVERSED else ranked[:N_TRAVERSED] + ranked[-N_TRAVERSED:]
    )
    found = []
    for unit in some:
        codes = np.tile(start, (len(STRIDES), 1))
        codes[:, unit] = units["mean"][unit] + np.array(STRIDES) * units["deviation"][unit]
        found.append((int(unit), codes))
    return found
