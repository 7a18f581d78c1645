"""One self-contained HTML page on one model, or on several side by side."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from uncollapse._version import __version__
from uncollapse.diagnostics.collapse import Estimate
from uncollapse.diagnostics.report import MAX_CLASSES, Gallery, Report

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Readable on light and on dark ground, and apart from each other for colour-blind eyes (Okabe & Ito's, slightly muted).
COLOURS = ("#d55e00", "#0f8fc4", "#12936c", "#c9689c", "#b58900", "#6f63c4", "#5ab4e6", "#8a6d3b", "#a03c3c", "#6b7f2a")

# A section: its heading, a note, and its parts as HTML.
Figures = tuple[str, str, Sequence[str]]

# Of the scatter, by the number of units (3 stands for more).
AXES = {1: ("unit 0", ""), 2: ("unit 0", "unit 1"), 3: ("principal component 1", "principal component 2")}

ROWS = {
    "nll_nats": "Negative log-likelihood, nats",
    "kl_nats": "KL(q(z|x) ‖ p(z)) on the data, nats",
    "kl_y_nats": "of this, of the component y",
    "kl_z_nats": "of this, of z given y",
    "mutual_information_nats": "Mutual information I(x; z), nats",
    "information_cap_nats": "Cap of its estimate, log n",
    "aggregate_kl_nats": "KL(q(z) ‖ p(z)), nats",
    "fisher_divergence": "Relative Fisher divergence",
    "active_units": "Active units (Burda's rule)",
    "informative_units": "Informative units (scale-free)",
    "information_floor_nats": "Information floor of the model, nats",
    "component_information_nats": "Mutual information I(x; y) of the component, nats",
    "component_floor_nats": "Floor of I(y; z) under the prior, nats",
    "live_components": "Live components",
    "majority_accuracy": "Accuracy, majority label of each component",
    "matched_accuracy": "Accuracy, components matched with labels",
    "probe_accuracy": "Accuracy of a linear probe on posterior means",
}


def render_page(reports: Sequence[Report], title: str, introduction: Sequence[str] = ()) -> str:
    """The page as text. It needs no other file and no network.

    Args:
        reports: of one model or several, on the same data.
        title: of the page.
        introduction: paragraphs that open it.
    """
    figures = [(heading, note, draw(reports)) for heading, note, draw in SECTIONS]
    return render("page.html.j2", title, introduction, figures, reports=reports, colours=COLOURS, table=comparison(reports))


def render(template: str, title: str, introduction: Sequence[str], figures: Sequence[Figures], **content: Any) -> str:
    """A page by one of the templates, as text.

    Args:
        template: its name.
        title: of the page.
        introduction: paragraphs that open it.
        figures: its sections after the numbers.
        content: what else the template takes.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("uncollapse.diagnostics", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(
        title=title,
        introduction=introduction,
        figures=[(heading, note, [Markup(part) for part in parts]) for heading, note, parts in figures],
        plotly=Markup(get_plotlyjs()),
        footer=f"uncollapse {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        **content,
    )


def format_estimate(estimate: Estimate | None) -> str:
    """A number as people write it: two digits of its error decide how many are shown.

    >>> format_estimate(Estimate(44.6123, 0.0412)), format_estimate(Estimate(8.0, math.nan)), format_estimate(None)
    ('44.612 ± 0.041', '8', 'unknown')
    >>> format_estimate(Estimate(8.517193, 1e-9))
    '8.517 ± 0.000'
    """
    if estimate is None or math.isnan(estimate.value):
        return "unknown"
    value, error = estimate.value, estimate.standard_error
    if math.isnan(error):
        return f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"
    digits = min(6, max(0, 1 - math.floor(math.log10(error)))) if error >= 1e-6 else 3
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def comparison(reports: Sequence[Report]) -> list[tuple[str, list[str]]]:
    """The rows of a table with a column for each report: a label, and the numbers as text."""
    some = [(key, label) for key, label in ROWS.items() if any(key in report.estimates for report in reports)]
    rows = [(label, [format_estimate(report.estimates.get(key)) for report in reports]) for key, label in some]
    seconds = [f"{report.history['seconds'].max():.1f}" if len(report.history) else "unknown" for report in reports]
    return [*rows, ("Training, seconds", seconds)]


def _kl_bars(reports: Sequence[Report]) -> list[str]:
    import plotly.graph_objects as go

    column = "explained_share" if any(report.units["kl_nats"].isna().any() for report in reports) else "kl_nats"
    top = max(report.units[column].max() for report in reports)
    parts = []
    for report, colour in zip(reports, cycle(COLOURS), strict=False):
        units = report.units.sort_values(column, ascending=False)
        figure = go.Figure(
            go.Bar(
                x=np.arange(1, len(units) + 1),
                y=units[column],
                marker_color=[colour if alive else "#999999" for alive in units["informative"]],
                customdata=units[["unit", "kl_nats", "explained_share"]],
                hovertemplate="unit %{customdata[0]}<br>%{customdata[1]:.3f} nats<br>%{customdata[2]:.1%} explained<extra></extra>",
            )
        )
        figure.update_xaxes(title="latent units, largest first")
        figure.update_yaxes(title="nats" if column == "kl_nats" else "share explained", range=[0, max(1.05 * top, 0.1)])
        parts.append(panel(figure, report.name))
    return parts


def _latent_scatter(reports: Sequence[Report]) -> list[str]:
    import plotly.graph_objects as go

    # One scale for all, so that a collapsed posterior looks like the point that it is.
    reach = 1.05 * max(float(np.abs(report.points).max()) for report in reports)
    parts = []
    for report in reports:
        figure = go.Figure()
        for label, points, marker in _groups(report):
            figure.add_trace(
                go.Scatter(x=points[:, 0], y=points[:, 1], mode="markers", name=label, marker={"size": 5, "opacity": 0.75} | marker)
            )
        first, second = AXES[min(len(report.units), 3)]
        figure.update_xaxes(title=first, range=[-reach, reach])
        figure.update_yaxes(title=second, range=[-reach, reach])
        figure.update_layout(legend={"itemsizing": "constant"})
        parts.append(panel(figure, report.name, height=380))
    return parts


def _groups(report: Report) -> list[tuple[str, np.ndarray, dict[str, Any]]]:
    """Name, points and marker of each group of points: one a class, where the labels are classes."""
    if report.labels is None:
        return [("", report.points, {"color": COLOURS[1]})]
    if report.labels.dtype.kind != "U":
        return [("", report.points, {"color": report.labels, "colorscale": "Viridis", "showscale": True})]
    classes, counts = np.unique(report.labels, return_counts=True)
    shown = classes if len(classes) <= MAX_CLASSES else classes[np.argsort(-counts)[: MAX_CLASSES - 1]]
    groups = [(str(label), report.labels == label) for label in sorted(shown, key=_as_number_or_text)]
    if len(shown) < len(classes):
        groups.append((f"{len(classes) - len(shown)} others", ~np.isin(report.labels, shown)))
    return [
        (label, report.points[members], {"color": COLOURS[index % len(COLOURS)]}) for index, (label, members) in enumerate(groups)
    ]


def _as_number_or_text(label: str) -> tuple[float, str]:
    """Sorts 2 before 10, and text after numbers."""
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    return (math.inf if math.isnan(number) else number), label


def _reconstructions(reports: Sequence[Report]) -> list[str]:
    gallery = reports[0].gallery
    parts = [_pictures(gallery, gallery.originals, "data")]
    return parts + [_pictures(report.gallery, report.gallery.reconstructions, report.name) for report in reports]


def _samples(reports: Sequence[Report]) -> list[str]:
    return [_pictures(report.gallery, report.gallery.samples, report.name) for report in reports]


def _pictures(gallery: Gallery, rows: np.ndarray | list[str], caption: str) -> str:
    """Rows as images where they are images, documents as a list, and all else as profiles over the features."""
    if isinstance(rows, list):
        return _texts(rows, caption)
    assert isinstance(gallery.originals, np.ndarray)
    low, high = float(gallery.originals.min()), float(gallery.originals.max())
    if gallery.image_shape is None:
        return _profiles(rows, (low, high), caption)
    from markupsafe import escape
    from matplotlib.image import imsave

    height, width = gallery.image_shape
    images = np.full((height, len(rows) * (width + 1) - 1), high)
    for index, row in enumerate(rows):
        images[:, index * (width + 1) : index * (width + 1) + width] = row.reshape(height, width)
    buffer = io.BytesIO()
    imsave(buffer, images, cmap="gray", vmin=low, vmax=high, format="png")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    name = escape(caption)
    return f'<figure class="strip"><figcaption>{name}</figcaption><img alt="{name}" src="data:image/png;base64,{encoded}"></figure>'


def _texts(documents: Sequence[str], caption: str) -> str:
    from markupsafe import escape

    items = "".join(f"<li>{escape(document)}</li>" for document in documents)
    return f'<figure class="texts"><figcaption>{escape(caption)}</figcaption><ol>{items}</ol></figure>'


def _profiles(rows: np.ndarray, limits: tuple[float, float], caption: str) -> str:
    import plotly.graph_objects as go

    figure = go.Figure()
    for index, row in enumerate(rows):
        figure.add_trace(go.Scatter(y=row, mode="lines", line={"width": 1, "color": COLOURS[index % len(COLOURS)]}))
    margin = 0.05 * (limits[1] - limits[0])
    figure.update_xaxes(title="feature")
    figure.update_yaxes(range=[limits[0] - margin, limits[1] + margin])
    figure.update_layout(showlegend=False)
    return panel(figure, caption)


def _training_curves(reports: Sequence[Report]) -> list[str]:
    import plotly.graph_objects as go

    parts = []
    for column, caption in (("loss", "loss, nats per example"), ("kl", "KL(q(z|x) ‖ p(z)), nats per example")):
        figure = go.Figure()
        for report, colour in zip(reports, cycle(COLOURS), strict=False):
            history = report.history
            figure.add_trace(
                go.Scatter(x=history["epoch"] + 1, y=history[column], mode="lines", name=report.name, line={"color": colour})
            )
        figure.update_xaxes(title="epoch")
        figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.12})
        parts.append(panel(figure, caption))
    return parts


def panel(figure: go.Figure, caption: str, height: int = 300) -> str:
    """A plot with its caption, as HTML."""
    from markupsafe import escape

    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 50, "r": 10, "t": 10, "b": 45},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "inherit", "size": 12},
    )
    figure.update_xaxes(zeroline=False, automargin=True)
    figure.update_yaxes(zeroline=False, automargin=True)
    plot = figure.to_html(full_html=False, include_plotlyjs=False, config={"responsive": True, "displayModeBar": False})
    return f'<figure class="panel"><figcaption>{escape(caption)}</figcaption>{plot}</figure>'


Section = tuple[str, str, Callable[[Sequence["Report"]], list[str]]]
SECTIONS: tuple[Section, ...] = (
    (
        "What each unit carries",
        "KL(q(z|x) ‖ p(z)) of each latent unit, mean over the data, given the component where there are several; for flows, which "
        "have none by unit, the share of the unit's variance that comes from the data. Grey units do not respond to the data.",
        _kl_bars,
    ),
    (
        "Where the data lie",
        "Posterior means, on one scale for all models; a standard normal prior has a deviation of 1. With more than two units, "
        "the two leading principal components.",
        _latent_scatter,
    ),
    (
        "Reconstructions",
        "Data, and the means of p(x|z) at their posterior means; of documents, the most probable symbols one after the other.",
        _reconstructions,
    ),
    ("Samples", "The same at z drawn from the prior, the same z for every model with as many units.", _samples),
    ("Training", "Means over each epoch.", _training_curves),
)
