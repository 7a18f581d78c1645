"""One self-contained HTML page on one model, or on several side by side."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.files import write_text
from uncollapse._version import __version__
from uncollapse.diagnostics.gallery import STRIDES, Gallery, Rows
from uncollapse.diagnostics.quantities import QUANTITIES
from uncollapse.diagnostics.report import MAX_CLASSES, Report
from uncollapse.measures.estimate import Estimate

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Readable on light and on dark ground, and apart from each other for colour-blind eyes (Okabe &
# Ito's, slightly muted).
COLOURS = (
    "#d55e00",
    "#0f8fc4",
    "#12936c",
    "#c9689c",
    "#b58900",
    "#6f63c4",
    "#5ab4e6",
    "#8a6d3b",
    "#a03c3c",
    "#6b7f2a",
)

# A section: its heading, a note, and its parts as HTML.
Figures = tuple[str, str, Sequence[str]]

# Columns of the table of units, where they are called otherwise than in `Report.units`.
UNIT_LABELS = {
    "kl_nats": "KL, nats",
    "matched_kl_nats": "KL, moment-matched, nats",
    "mean_variance": "Var E[z|x]",
    "explained_share": "explained",
}

# Of the scatter, by the number of units (3 stands for more).
AXES = {
    1: ("unit 0", ""),
    2: ("unit 0", "unit 1"),
    3: ("principal component 1", "principal component 2"),
}


def render_page(reports: Sequence[Report], title: str, introduction: Sequence[str] = ()) -> str:
    """The page as text. It needs no other file and no network.

    Args:
        reports: of one model or several, on the same data.
        title: of the page.
        introduction: paragraphs that open it.
    """
    return render(
        "page.html.j2",
        title,
        introduction,
        figures_of(reports, SECTIONS),
        reports=reports,
        colours=COLOURS,
        table=side_by_side(reports),
    )


def compare_reports(
    reports: Iterable[Report],
    path: str | Path | None = None,
    *,
    title: str | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Several models side by side, in numbers, and as one page that needs nothing else.

    Args:
        reports: of `diagnose`, on the same data; a name that several of them have gets a number.
        path: where the page goes; there is none if not given.
        title: of the page.
        overwrite: whether a page that is already there may be replaced.

    Returns:
        A row for each report: ``verdict``, and each number by its name in `Report.estimates` with
            its ``_standard_error``, NaN
        where it is unknown. The index holds the names.

    Raises:
        InputError: if there are no reports, or the page cannot be written.
    """
    reports = list(reports) if isinstance(reports, Iterable) else []
    if not reports or not all(isinstance(report, Report) for report in reports):
        raise ParameterError(
            "compare_reports expects a sequence of reports, as diagnose returns them: give at "
            "least one."
        )
    named = _told_apart(reports)
    if path is not None:
        write_text(
            path, render_page(named, title or f"{len(named)} models side by side"), overwrite
        )
    rows: list[dict[str, Any]] = []
    for report in named:
        row: dict[str, Any] = {"verdict": report.verdict}
        for key in _known(named):
            estimate = report.estimates.get(key) or Estimate(math.nan)
            row |= {key: estimate.value, f"{key}_standard_error": estimate.standard_error}
        rows.append(row)
    return pd.DataFrame(
        rows, index=pd.Index([report.name for report in named], name="model")
    ).dropna(axis=1, how="all")


def _known(reports: Sequence[Report]) -> list[str]:
    """The names of the numbers that some report has, in the order of tables."""
    return [key for key in QUANTITIES if any(key in report.estimates for report in reports)]


def _told_apart(reports: Sequence[Report]) -> list[Report]:
    names = [report.name for report in reports]
    seen: Counter[str] = Counter()
    found = []
    for report in reports:
        seen[report.name] += 1
        again = names.count(report.name) > 1
        found.append(
            replace(report, name=f"{report.name} ({seen[report.name]})") if again else report
        )
    return found


def figures_of(reports: Sequence[Report], sections: Sequence[Section]) -> list[Figures]:
    """The sections that have something to show."""
    figures = [(section.heading, section.note, section.draw(reports)) for section in sections]
    return [(heading, note, parts) for heading, note, parts in figures if parts]


def render(
    template: str,
    title: str,
    introduction: Sequence[str],
    figures: Sequence[Figures],
    **content: Any,
) -> str:
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
        loader=PackageLoader("uncollapse.diagnostics", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template).render(
        title=title,
        introduction=introduction,
        figures=[
            (heading, note, [Markup(part) for part in parts]) for heading, note, parts in figures
        ],
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


def side_by_side(reports: Sequence[Report]) -> list[tuple[str, list[str]]]:
    """The rows of a table with a column for each report: a label, and the numbers as text."""
    known = _known(reports)
    rows = [
        (QUANTITIES[key].label, [format_estimate(report.estimates.get(key)) for report in reports])
        for key in known
    ]
    if not any(len(report.history) for report in reports):
        return rows
    seconds = [
        f"{report.history['seconds'].max():.1f}" if len(report.history) else "unknown"
        for report in reports
    ]
    return [*rows, ("Training, seconds", seconds)]


def _kl_bars(reports: Sequence[Report]) -> list[str]:
    import plotly.graph_objects as go

    top = max(float(report.units[report.unit_kl].max()) for report in reports)
    parts = []
    for report, colour in zip(reports, cycle(COLOURS), strict=False):
        kl = report.unit_kl
        units = report.units.sort_values(kl, ascending=False)
        figure = go.Figure(
            go.Bar(
                x=np.arange(1, len(units) + 1),
                y=units[kl],
                marker_color=[colour if alive else "#999999" for alive in units["informative"]],
                customdata=units[["unit", kl, "explained_share"]],
                hovertemplate="unit %{customdata[0]}<br>%{customdata[1]:.3f} "
                "nats<br>%{customdata[2]:.1%} explained<extra></extra>",
            )
        )
        figure.update_xaxes(title="latent units, largest first")
        figure.update_yaxes(
            title="nats" if kl == "kl_nats" else "nats, moment-matched",
            range=[0, max(1.05 * top, 0.1)],
        )
        parts.append(panel(figure, report.name))
    return parts


def _unit_tables(reports: Sequence[Report]) -> list[str]:
    return [_unit_table(report) for report in reports]


def _unit_table(report: Report) -> str:
    """The units of a model as a table that a click on a heading sorts."""
    from markupsafe import escape

    formats = report.unit_formats
    heads = "".join(
        f'<th scope="col"><button type="button">{escape(UNIT_LABELS.get(key, key))}</button></th>'
        for key in formats
    )
    rows = []
    for unit in report.ranked_units.to_dict(orient="records"):
        cells = [(float(unit[key]), _as_cell(unit[key], form)) for key, form in formats.items()]
        rows.append("".join(f'<td data-value="{value}">{text}</td>' for value, text in cells))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<figure class="units"><figcaption>{escape(report.name)}</figcaption><div class="table"><table class="sortable"><thead>'
        f"<tr>{heads}</tr></thead><tbody>{body}</tbody></table></div></figure>"
    )


def _as_cell(value: Any, form: str) -> str:
    return ("yes" if value else "no") if isinstance(value, bool | np.bool_) else form.format(value)


def _collapse_curves(reports: Sequence[Report]) -> list[str]:
    import plotly.graph_objects as go

    parts = []
    for report, colour in zip(reports, cycle(COLOURS), strict=False):
        figure, curves = go.Figure(), report.collapse_curves
        for unit in report.units.sort_values("explained_share", kind="stable").itertuples():
            figure.add_trace(
                go.Scatter(
                    x=curves.index,
                    y=curves[unit.unit],
                    mode="lines",
                    line={"width": 1.2, "color": colour if unit.informative else "#999999"},
                    opacity=0.7,
                    hovertemplate=f"unit {unit.unit}<br>KL ≥ %{{x:.3g}} nats<br>on %{{y:.1%}} of "
                    "the data<extra></extra>",
                )
            )
        figure.update_xaxes(title="ε, nats", type="log")
        figure.update_yaxes(title="δ, share of the data", range=[-0.03, 1.03])
        figure.update_layout(showlegend=False)
        parts.append(panel(figure, report.name))
    return parts


def _certificates(reports: Sequence[Report]) -> list[str]:
    """What is guaranteed for each model that has a certificate, and what was measured."""
    from markupsafe import escape

    parts = []
    for report in reports:
        if report.certificate is None:
            continue
        proof = report.certificate
        rows = "".join(
            f'<tr><th scope="row">{escape(proof.meanings[key])}</th><td>{format_estimate(estimate)}</td></tr>'
            for key, estimate in proof.estimates.items()
            if estimate is not None
        )
        head = f"{report.name}: {proof.verdict}"
        parts.append(
            f'<figure class="units"><figcaption>{escape(head)}</figcaption><div class="table wrapped"><table><tbody>{rows}</tbody>'
            "</table></div></figure>"
        )
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
                go.Scatter(
                    x=points[:, 0],
                    y=points[:, 1],
                    mode="markers",
                    name=label,
                    marker={"size": 5, "opacity": 0.75} | marker,
                )
            )
        first, second = AXES[min(len(report.units), 3)]
        figure.update_xaxes(title=first, range=[-reach, reach])
        figure.update_yaxes(title=second, range=[-reach, reach])
        figure.update_layout(legend={"itemsizing": "constant"})
        parts.append(panel(figure, report.name, height=380))
    return parts


def _groups(report: Report) -> list[tuple[str, np.ndarray, dict[str, Any]]]:
    """Name, points and marker of each group of points: one a class, where the labels are
    classes."""
    if report.labels is None:
        return [("", report.points, {"color": COLOURS[1]})]
    if report.labels.dtype.kind != "U":
        return [
            (
                "",
                report.points,
                {"color": report.labels, "colorscale": "Viridis", "showscale": True},
            )
        ]
    classes, counts = np.unique(report.labels, return_counts=True)
    shown = (
        classes if len(classes) <= MAX_CLASSES else classes[np.argsort(-counts)[: MAX_CLASSES - 1]]
    )
    groups = [
        (str(label), report.labels == label) for label in sorted(shown, key=_as_number_or_text)
    ]
    if len(shown) < len(classes):
        groups.append((f"{len(classes) - len(shown)} others", ~np.isin(report.labels, shown)))
    return [
        (label, report.points[members], {"color": COLOURS[index % len(COLOURS)]})
        for index, (label, members) in enumerate(groups)
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
    return parts + [
        _pictures(report.gallery, report.gallery.reconstructions, report.name) for report in reports
    ]


def _samples(reports: Sequence[Report]) -> list[str]:
    return [_pictures(report.gallery, report.gallery.samples, report.name) for report in reports]


def _traversals(reports: Sequence[Report]) -> list[str]:
    parts = []
    for report in reports:
        units = report.units.set_index("unit")
        for unit, rows in report.gallery.traversals.items():
            share = units["explained_share"][unit]
            parts.append(
                _pictures(
                    report.gallery, rows, f"{report.name}: unit {unit}, {share:.1%} explained"
                )
            )
    return parts


def _pictures(gallery: Gallery, rows: Rows, caption: str) -> str:
    """Rows as images where they are images, documents as a list, and all else as profiles over the
    features."""
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

    items = "".join(f"<li>{escape(document or '(empty)')}</li>" for document in documents)
    return (
        f'<figure class="texts"><figcaption>{escape(caption)}</figcaption><ol>{items}</ol></figure>'
    )


def _profiles(rows: np.ndarray, limits: tuple[float, float], caption: str) -> str:
    import plotly.graph_objects as go

    figure = go.Figure()
    for index, row in enumerate(rows):
        figure.add_trace(
            go.Scatter(
                y=row, mode="lines", line={"width": 1, "color": COLOURS[index % len(COLOURS)]}
            )
        )
    margin = 0.05 * (limits[1] - limits[0])
    figure.update_xaxes(title="feature")
    figure.update_yaxes(range=[limits[0] - margin, limits[1] + margin])
    figure.update_layout(showlegend=False)
    return panel(figure, caption)


def _training_curves(reports: Sequence[Report]) -> list[str]:
    import plotly.graph_objects as go

    if all(report.history.empty for report in reports):
        return []
    parts = []
    for column, caption in (
        ("loss", "loss, nats per example"),
        ("kl", "KL(q(z|x) ‖ p(z)), nats per example"),
    ):
        figure = go.Figure()
        for report, colour in zip(reports, cycle(COLOURS), strict=False):
            history = report.history
            if history.empty:
                continue
            figure.add_trace(
                go.Scatter(
                    x=history["epoch"] + 1,
                    y=history[column],
                    mode="lines",
                    name=report.name,
                    line={"color": colour},
                )
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
    plot = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        config={"responsive": True, "displayModeBar": False},
    )
    return f'<figure class="panel"><figcaption>{escape(caption)}</figcaption>{plot}</figure>'


class Section(NamedTuple):
    """A part of a page: its heading, a note under it, and what draws its figures as HTML; none
    where there is nothing to show."""

    heading: str
    note: str
    draw: Callable[[Sequence[Report]], list[str]]


SPECTRA = Section(
    "What each unit carries",
    "KL(q(z|x) ‖ p(z)) of each latent unit, mean over the data, given the component where there "
    "are several; for flows and under "
    "mixtures that are summed out, which have none by unit, that between Gaussians with the same "
    "moments. Grey units do not "
    "respond to the data.",
    _kl_bars,
)
UNIT_TABLES = Section(
    "Unit by unit",
    "The strongest first; a click on a heading sorts. Active: Var E[z|x] ≥ 0.01. Informative: at "
    "least 1% of the unit's variance "
    "is explained by the data, whatever its scale.",
    _unit_tables,
)
COLLAPSE_CURVES = Section(
    "How collapsed each unit is",
    "A unit is (ε, δ)-collapsed if its KL is below ε nats on all but a share δ of the data (Lucas "
    "et al. 2019): a line for each "
    "unit, whose height at ε is the least such δ. Lines that keep low are those of collapsed "
    "units; grey ones do not respond to "
    "the data.",
    _collapse_curves,
)
LATENTS = Section(
    "Where the data lie",
    "Posterior means, on one scale for all models; a standard normal prior has a deviation of 1. "
    "With more than two units, "
    "the two leading principal components.",
    _latent_scatter,
)
RECONSTRUCTIONS = Section(
    "Reconstructions",
    "Data, and the means of p(x|z) at their posterior means; of documents, the most probable "
    "symbols one after the other.",
    _reconstructions,
)
SAMPLES = Section(
    "Samples",
    "The same at z drawn from the prior, the same z for every model with as many units.",
    _samples,
)
TRAVERSALS = Section(
    "Along single units",
    f"The strongest units and the weakest, from the first datum's posterior mean: the unit goes "
    f"from {STRIDES[0]:.0f} to "
    f"{STRIDES[-1]:.0f} deviations of q(z) around its mean, all others stay. What a dead unit does "
    "to x is nothing.",
    _traversals,
)
CERTIFICATES = Section(
    "Guarantees",
    "What the decoder's inverse Lipschitz constant implies (K23), and what was measured.",
    _certificates,
)
TRAINING = Section("Training", "Means over each epoch.", _training_curves)
SECTIONS = (
    SPECTRA, UNIT_TABLES, COLLAPSE_CURVES, LATENTS, RECONSTRUCTIONS, SAMPLES, TRAVERSALS, CERTIFICATES, TRAINING,
)  # fmt: skip
