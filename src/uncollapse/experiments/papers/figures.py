"""Pictures of results, in the papers' arrangements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from uncollapse import models
from uncollapse._utils.random import seeded
from uncollapse.diagnostics.plotting import COLOURS
from uncollapse.estimators import Estimator, MixtureVAE
from uncollapse.experiments.plotting import new_figure


def curves(
    results: pd.DataFrame,
    x: str,
    ys: Mapping[str, str],
    xlabel: str,
    log: Sequence[str] = (),
    by: str = "model",
) -> Any:
    """Mean over seeds against x, with a bar of a standard deviation, one panel for each y and one
    line for each model."""
    figure, axes = new_figure(1, len(ys), width=5.0, height=3.8)
    for axis, (column, label) in zip(axes[0], ys.items(), strict=True):
        for index, (name, members) in enumerate(results.groupby(by, sort=False)):
            grouped = members.groupby(x)[column]
            axis.errorbar(
                grouped.mean().index,
                grouped.mean(),
                grouped.std().fillna(0.0),
                marker="o",
                markersize=3,
                capsize=2,
                label=str(name),
                color=COLOURS[index % len(COLOURS)],
            )
        axis.set(xlabel=xlabel, ylabel=label, yscale="log" if column in log else "linear")
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    return figure


def data_by_component(shown: Mapping[tuple[str, str], tuple[Estimator | None, np.ndarray]]) -> Any:
    """Data in two dimensions, coloured by the component that each model sees, one panel for each
    (row, column).

    Args:
        shown: by the names of the row and of the column, a fitted mixture (or None) and data, shape
            (n, 2).
    """
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*shown, strict=True))
    figure, axes = new_figure(len(rows), len(columns), width=3.0, height=3.0)
    for (row, column), (model, points) in shown.items():
        axis = axes[rows.index(row)][columns.index(column)]
        axis.set(xticks=[], yticks=[], aspect="equal")
        if rows.index(row) == 0:
            axis.set_title(column, fontsize=9)
        if columns.index(column) == 0:
            axis.set_ylabel(row, fontsize=9)
        if isinstance(model, MixtureVAE):
            colours = np.array([COLOURS[y % len(COLOURS)] for y in model.predict(points)])
            axis.scatter(*points.T, c=colours, s=2, alpha=0.6, linewidths=0)
    return figure


def component_samples(
    shown: Mapping[str, Estimator | None], image_shape: tuple[int, int], n: int = 10
) -> Any:
    """Means of p(x|z) at draws of z from each component, a row for each component, one panel for
    each model."""
    figure, axes = new_figure(1, len(shown), width=3.4, height=3.4)
    for axis, (name, model) in zip(axes[0], shown.items(), strict=True):
        axis.set_title(name, fontsize=9)
        axis.axis("off")
        if isinstance(model, MixtureVAE):
            axis.imshow(_tiled(_means_by_component(model, n), image_shape), cmap="gray")
    return figure


def reconstructions(
    shown: Mapping[str, Estimator | None], rows: np.ndarray, image_shape: tuple[int, int]
) -> Any:
    """Data, one a row, beside what each model makes of them."""
    figure, axes = new_figure(1, 1 + len(shown), width=1.0, height=0.5 * len(rows))
    pictures = {"data": rows} | {
        name: None if model is None else model.reconstruct(rows) for name, model in shown.items()
    }
    for axis, (name, images) in zip(axes[0], pictures.items(), strict=True):
        axis.set_title(name, fontsize=7)
        axis.axis("off")
        if images is not None:
            axis.imshow(_tiled(images[:, None], image_shape), cmap="gray")
    return figure


def _means_by_component(model: MixtureVAE, n: int) -> np.ndarray:
    """Means of p(x|z) at n draws from each component, shape (c, n, n_features)."""
    assert isinstance(model.model_, models.MixtureVAE)
    with seeded(0):
        codes = model.model_.prior.components().sample((n,)).transpose(0, 1)
    return np.stack([model.inverse_transform(each.cpu().numpy()) for each in codes])


def _tiled(images: np.ndarray, image_shape: tuple[int, int]) -> np.ndarray:
    """Images of shape (rows, columns, pixels) as one."""
    n_rows, n_columns, _ = images.shape
    height, width = image_shape
    return (
        images.reshape(n_rows, n_columns, height, width)
        .swapaxes(1, 2)
        .reshape(n_rows * height, n_columns * width)
    )
