"""Figures of results, arranged as in the papers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from uncollapse._utils.random import seeded
from uncollapse.diagnostics.plotting import COLORS
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
    """Return a figure of means over seeds against x, with bars of one standard deviation.

    Args:
        results: a row for each trial.
        x: column of the horizontal axis.
        ys: labels by column, one panel for each.
        xlabel: label of the horizontal axis.
        log: columns with a logarithmic axis.
        by: column with one line for each of its values.
    """
    figure, axes = new_figure(1, len(ys), width=5.0, height=3.8)
    style: dict[str, Any] = {"marker": "o", "markersize": 3, "capsize": 2}
    for axis, (column, label) in zip(axes[0], ys.items(), strict=True):
        for index, (name, members) in enumerate(results.groupby(by, sort=False)):
            grouped, color = members.groupby(x)[column], COLORS[index % len(COLORS)]
            mean, deviation = grouped.mean(), grouped.std().fillna(0.0)
            axis.errorbar(mean.index, mean, deviation, label=str(name), color=color, **style)
        axis.set(xlabel=xlabel, ylabel=label, yscale="log" if column in log else "linear")
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    return figure


def data_by_component(shown: Mapping[tuple[str, str], tuple[Estimator | None, np.ndarray]]) -> Any:
    """Return a figure of two-dimensional data, colored by the component that each model predicts.

    Args:
        shown: a fitted mixture (or None) and data of shape (n, 2), by the row and the column of
            their panel.
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
            colors = np.array([COLORS[y % len(COLORS)] for y in model.predict(points)])
            axis.scatter(*points.T, c=colors, s=2, alpha=0.6, linewidths=0)
    return figure


def component_samples(
    shown: Mapping[str, Estimator | None], image_shape: tuple[int, int], n: int = 10
) -> Any:
    """Return a figure of sampled images, with a panel for each model and a row for each component.

    The images are means of p(x|z) at draws of z from the component.
    """
    figure, axes = new_figure(1, len(shown), width=3.4, height=3.4)
    for axis, (name, model) in zip(axes[0], shown.items(), strict=True):
        axis.set_title(name, fontsize=9)
        axis.axis("off")
        if isinstance(model, MixtureVAE):
            axis.imshow(_tiled(_component_means(model, n), image_shape), cmap="gray")
    return figure


def reconstructions(
    shown: Mapping[str, Estimator | None], rows: np.ndarray, image_shape: tuple[int, int]
) -> Any:
    """Return a figure of images, one a row, and of their reconstructions by each model."""
    figure, axes = new_figure(1, 1 + len(shown), width=1.0, height=0.5 * len(rows))
    images = {"data": rows} | {
        name: None if model is None else model.reconstruct(rows) for name, model in shown.items()
    }
    for axis, (name, each) in zip(axes[0], images.items(), strict=True):
        axis.set_title(name, fontsize=7)
        axis.axis("off")
        if each is not None:
            axis.imshow(_tiled(each[:, None], image_shape), cmap="gray")
    return figure


def _component_means(model: MixtureVAE, n: int) -> np.ndarray:
    """Return means of p(x|z) at n draws from each component, shape (c, n, n_features)."""
    prior: Any = model.model_.prior
    with seeded(0):
        codes = prior.components().sample((n,)).transpose(0, 1)
    return np.stack([model.inverse_transform(each.cpu().numpy()) for each in codes])


def _tiled(images: np.ndarray, image_shape: tuple[int, int]) -> np.ndarray:
    """Return images of shape (rows, columns, pixels) as one image."""
    (n_rows, n_columns, _), (height, width) = images.shape, image_shape
    tiles = images.reshape(n_rows, n_columns, height, width).swapaxes(1, 2)
    return tiles.reshape(n_rows * height, n_columns * width)
