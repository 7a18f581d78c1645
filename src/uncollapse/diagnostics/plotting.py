"""Figures of a page as plain data, which the templates turn into markup.

Charts are traces and layouts of Plotly, which draws them in the browser.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from uncollapse.diagnostics.gallery import Gallery, Rows
from uncollapse.diagnostics.report import Report
from uncollapse.measures.evaluation import MAX_CLASSES

# Okabe and Ito's colors, slightly muted: readable on light and dark backgrounds, and distinct for
# color-blind readers.
COLORS = (
    "#d55e00", "#0f8fc4", "#12936c", "#c9689c", "#b58900",
    "#6f63c4", "#5ab4e6", "#8a6d3b", "#a03c3c", "#6b7f2a",
)  # fmt: skip
GREY = "#999999"


class Figure(NamedTuple):
    """A figure with its caption.

    Attributes:
        kind: the template macro that shows the content.
        caption: plain text.
        content: traces and layout of a chart, the data URI of an image, or a list of texts.
    """

    kind: Literal["chart", "image", "texts"]
    caption: str
    content: Any


def unit_kl(reports: Sequence[Report]) -> list[Figure]:
    """Draw the KL of each unit as bars, the largest first; uninformative units are grey."""
    top = max(float(report.units[report.unit_kl].max()) for report in reports)
    figures = []
    for report, color in _colored(reports):
        kl = report.unit_kl
        units = report.units.sort_values(kl, ascending=False)
        bars = {
            "type": "bar",
            "x": list(range(1, len(units) + 1)),
            "y": _numbers(units[kl]),
            "marker": {"color": [color if alive else GREY for alive in units["informative"]]},
            "customdata": [
                _numbers(pair) for pair in units[["unit", "explained_share"]].to_numpy()
            ],
            "hovertemplate": "unit %{customdata[0]}<br>%{y:.3f} nats<br>"
            "%{customdata[1]:.1%} explained<extra></extra>",
        }
        unit = "nats" if kl == "kl_nats" else "nats, moment-matched"
        y_axis = _axis(unit, [0, max(1.05 * top, 0.1)])
        figures.append(_chart(report.name, [bars], _axis("latent units, largest first"), y_axis))
    return figures


def collapse_curves(reports: Sequence[Report]) -> list[Figure]:
    """Draw the (epsilon, delta)-collapse of each unit as a line; uninformative units are grey."""
    figures = []
    for report, color in _colored(reports):
        curves = report.collapse_curves
        lines = [
            _scatter(
                curves.index,
                curves[unit.unit],
                line={"width": 1.2, "color": color if unit.informative else GREY},
                opacity=0.7,
                hovertemplate=f"unit {unit.unit}<br>KL ≥ %{{x:.3g}} nats<br>"
                "for %{y:.1%} of the data<extra></extra>",
            )
            for unit in report.units.sort_values("explained_share", kind="stable").itertuples()
        ]
        x_axis = _axis("ε, nats") | {"type": "log"}
        y_axis = _axis("δ, share of the data", [-0.03, 1.03])
        figures.append(_chart(report.name, lines, x_axis, y_axis, showlegend=False))
    return figures


def posterior_means(reports: Sequence[Report]) -> list[Figure]:
    """Scatter the posterior means of each model, on one scale for all models.

    The common scale shows a collapsed posterior as the point that it is.
    """
    reach = 1.05 * max(float(np.abs(report.points).max()) for report in reports)
    figures = []
    for report in reports:
        dots = [
            _scatter(
                points[:, 0],
                points[:, 1],
                mode="markers",
                name=label,
                marker={"size": 5, "opacity": 0.75} | marker,
            )
            for label, points, marker in _groups(report)
        ]
        titles = ["unit 0", "unit 1"][: len(report.units)]
        if len(report.units) > 2:
            titles = ["principal component 1", "principal component 2"]
        x_axis, y_axis = (_axis(title, [-reach, reach]) for title in [*titles, ""][:2])
        legend = {"itemsizing": "constant"}
        figures.append(_chart(report.name, dots, x_axis, y_axis, height=380, legend=legend))
    return figures


def _groups(report: Report) -> list[tuple[str, np.ndarray, dict[str, Any]]]:
    """Split the points by class; return the name, points and marker of each group."""
    labels = report.labels
    if labels is None:
        return [("", report.points, {"color": COLORS[1]})]
    if labels.dtype.kind != "U":
        scale = {"color": _numbers(labels), "colorscale": "Viridis", "showscale": True}
        return [("", report.points, scale)]
    classes, counts = np.unique(labels, return_counts=True)
    n_named = len(classes) if len(classes) <= MAX_CLASSES else MAX_CLASSES - 1
    named = classes[np.argsort(-counts)[:n_named]]
    groups = [(str(label), labels == label) for label in sorted(named, key=_number_then_text)]
    if len(named) < len(classes):
        groups.append((f"{len(classes) - len(named)} others", ~np.isin(labels, named)))
    return [
        (label, report.points[members], {"color": color})
        for (label, members), color in zip(groups, cycle(COLORS), strict=False)
    ]


def _number_then_text(label: str) -> tuple[float, str]:
    """Sort key that puts 2 before 10, and text after numbers."""
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    return (math.inf if math.isnan(number) else number), label


def reconstructions(reports: Sequence[Report]) -> list[Figure]:
    """Show the data, and what each model reconstructs."""
    data = reports[0].gallery
    outputs = ((each.gallery, each.gallery.reconstructions, each.name) for each in reports)
    return _rows_of_each([(data, data.originals, "data"), *outputs])


def samples(reports: Sequence[Report]) -> list[Figure]:
    """Show draws of each model."""
    return _rows_of_each((each.gallery, each.gallery.samples, each.name) for each in reports)


def traversals(reports: Sequence[Report]) -> list[Figure]:
    """Show how x changes along single units of each model."""
    figures = []
    for report in reports:
        shares = report.units.set_index("unit")["explained_share"]
        figures += _rows_of_each(
            (report.gallery, rows, f"{report.name}: unit {unit}, {shares[unit]:.1%} explained")
            for unit, rows in report.gallery.traversals.items()
        )
    return figures


def _rows_of_each(outputs: Iterable[tuple[Gallery, Rows, str]]) -> list[Figure]:
    return [_rows(gallery, rows, caption) for gallery, rows, caption in outputs if len(rows)]


def _rows(gallery: Gallery, rows: Rows, caption: str) -> Figure:
    """Show rows as documents, as images, or as profiles over the features."""
    if isinstance(rows, list):
        return Figure("texts", caption, rows)
    originals = np.asarray(gallery.originals)
    low, high = float(originals.min()), float(originals.max())
    if gallery.image_shape is not None:
        return Figure("image", caption, _png(rows.reshape(-1, *gallery.image_shape), low, high))
    lines = [
        _scatter(range(len(row)), row, line={"width": 1, "color": color})
        for row, color in zip(rows, cycle(COLORS), strict=False)
    ]
    margin = 0.05 * (high - low)
    y_axis = _axis("", [low - margin, high + margin])
    return _chart(caption, lines, _axis("feature"), y_axis, showlegend=False)


def _png(images: np.ndarray, low: float, high: float) -> str:
    """Data URI of grey images side by side, one pixel apart."""
    from matplotlib.image import imsave

    spaced = np.pad(images, ((0, 0), (0, 0), (0, 1)), constant_values=high)
    buffer = io.BytesIO()
    imsave(buffer, np.hstack([*spaced])[:, :-1], cmap="gray", vmin=low, vmax=high, format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def training_curves(reports: Sequence[Report]) -> list[Figure]:
    """Draw loss and KL over the epochs; empty if no model has a history."""
    trained = [(report, color) for report, color in _colored(reports) if len(report.history)]
    captions = {"loss": "loss, nats per example", "kl": "KL(q(z|x) ‖ p(z)), nats per example"}
    figures = []
    for column, caption in captions.items() if trained else ():
        lines = [
            _scatter(
                report.history["epoch"] + 1,
                report.history[column],
                name=report.name,
                line={"color": color},
            )
            for report, color in trained
        ]
        legend = {"orientation": "h", "y": 1.12}
        figures.append(
            _chart(caption, lines, _axis("epoch"), _axis(), showlegend=True, legend=legend)
        )
    return figures


def rate_distortion(
    curves: Sequence[tuple[str, pd.DataFrame, pd.DataFrame]], caption: str
) -> Figure:
    """Draw distortion over rate, with dashed lines of equal negative ELBO.

    Each model has a name, a curve, whose last point is the trained model, and its lower edge.
    """
    ends = pd.DataFrame([curve.iloc[-1] for _, curve, _ in curves])
    low, most, high = ends["distortion"].quantile([0.0, 0.75, 1.0])
    # A model that has failed must not press all others into one line.
    high = min(high, low + 3 * (most - low))
    top, reach = float(ends["rate"].max()), max(high - low, 1.0)
    lines = []
    for number, (name, curve, edge) in enumerate(curves):
        color = COLORS[number % len(COLORS)]
        # Line style and marker tell models of the same color apart.
        dash, symbol = ("solid", "circle") if number < len(COLORS) else ("dot", "diamond")
        lines += [
            _scatter(
                points["rate"],
                points["distortion"],
                mode=mode,
                name=name,
                legendgroup=name,
                showlegend=mode == "markers",
                line={"color": color, "width": 1.5, "dash": dash},
                marker={"size": 9, "color": color, "symbol": symbol},
                hovertemplate=f"{name}<br>rate %{{x:.2f}}<br>distortion %{{y:.2f}}<extra></extra>",
            )
            for points, mode in ((edge, "lines"), (curve.tail(1), "markers"))
        ]
    right = 1.1 * top + 0.1
    equal_elbo = [
        {
            "type": "line",
            "layer": "below",
            "line": {"color": GREY, "width": 0.5, "dash": "dash"},
            "x0": 0,
            "y0": loss,
            "x1": right,
            "y1": loss - right,
        }
        for loss in np.linspace(low, high + top, 6).tolist()
    ]
    x_axis = _axis("rate: KL(q(z|x) ‖ p(z)), nats", [-0.02 * top, 1.05 * top + 0.1])
    y_axis = _axis("distortion: -E log p(x|z), nats", [low - 0.1 * reach, high + reach])
    legend = {"orientation": "h", "y": -0.2}
    layout = {"shapes": equal_elbo, "showlegend": True, "legend": legend}
    return _chart(caption, lines, x_axis, y_axis, height=520, **layout)


def _colored(reports: Sequence[Report]) -> Iterator[tuple[Report, str]]:
    return zip(reports, cycle(COLORS), strict=False)


def _scatter(
    x: Iterable[float], y: Iterable[float], mode: str = "lines", **style: Any
) -> dict[str, Any]:
    return {"type": "scatter", "mode": mode, "x": _numbers(x), "y": _numbers(y), **style}


def _chart(
    caption: str,
    traces: Sequence[dict[str, Any]],
    x_axis: dict[str, Any],
    y_axis: dict[str, Any],
    height: int = 300,
    **layout: Any,
) -> Figure:
    layout |= {"xaxis": x_axis, "yaxis": y_axis, "height": height}
    return Figure("chart", caption, {"data": traces, "layout": layout})


def _axis(title: str = "", limits: Sequence[float] | None = None) -> dict[str, Any]:
    return {"title": {"text": title}} | ({} if limits is None else {"range": _numbers(limits)})


def _numbers(values: Iterable[float]) -> list[float | None]:
    """Values with six significant digits; None, which Plotly skips, where not finite."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]
