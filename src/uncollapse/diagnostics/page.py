"""Self-contained HTML pages about one model, or several side by side."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.files import write_text
from uncollapse._version import __version__
from uncollapse.certificates.certificate import Certificate
from uncollapse.diagnostics import plotting
from uncollapse.diagnostics.quantities import QUANTITIES
from uncollapse.diagnostics.report import Report
from uncollapse.measures.estimate import Estimate

# Headings of the table of units, where they differ from the columns of `Report.units`.
UNIT_LABELS = {
    "kl_nats": "KL, nats",
    "matched_kl_nats": "KL, moment-matched, nats",
    "mean_variance": "Var E[z|x]",
    "explained_share": "explained",
}


def render_page(reports: Sequence[Report], title: str, introduction: Sequence[str] = ()) -> str:
    """Return the HTML of a page on reports on the same data, which needs no other file and no
    network."""
    return render(
        "report.html.j2",
        title=title,
        introduction=introduction,
        reports=reports,
        colors=plotting.COLORS,
        table=side_by_side(reports),
        units=[_unit_table(report) for report in reports],
        certificates=[
            _certificate_table(report.name, report.certificate)
            for report in reports
            if report.certificate is not None
        ],
        figures=shared_figures(reports)
        | {
            "collapse_curves": plotting.collapse_curves(reports),
            "traversals": plotting.traversals(reports),
        },
    )


def shared_figures(reports: Sequence[Report]) -> dict[str, list[plotting.Figure]]:
    """Draw the figures that pages of reports and of comparisons have in common."""
    return {
        "unit_kl": plotting.unit_kl(reports),
        "posterior_means": plotting.posterior_means(reports),
        "reconstructions": plotting.reconstructions(reports),
        "samples": plotting.samples(reports),
        "training_curves": plotting.training_curves(reports),
    }


def render(template: str, **content: Any) -> str:
    """Fill in one of the templates, with all values escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("uncollapse.diagnostics"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment.get_template(template).render(
        plotly=get_plotlyjs(),
        version=__version__,
        now=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        **content,
    )


def compare_reports(
    reports: Iterable[Report],
    path: str | Path | None = None,
    *,
    title: str | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Compare models in a table, and on a self-contained page if a path is given.

    Args:
        reports: results of `diagnose` on the same data. Names that occur more than once are
            numbered.
        path: of the page; no page is written if None.
        title: of the page.
        overwrite: replace an existing page.

    Returns:
        A row for each report, indexed by name: ``verdict``, and each number of `Report.estimates`
        with its ``_standard_error``, NaN where unknown.

    Raises:
        ParameterError: if there are no reports.
        FileError: if the page exists and `overwrite` is False, or cannot be written.
    """
    reports = list(reports) if isinstance(reports, Iterable) else []
    if not reports or not all(isinstance(report, Report) for report in reports):
        raise ParameterError(
            "compare_reports expects a sequence of reports, as diagnose returns them. Give at "
            "least one."
        )
    reports = _with_distinct_names(reports)
    if path is not None:
        title = title or f"{len(reports)} models side by side"
        write_text(path, render_page(reports, title), overwrite)
    rows: list[dict[str, Any]] = []
    for report in reports:
        row: dict[str, Any] = {"verdict": report.verdict}
        for key in _known(reports):
            estimate = report.estimates.get(key) or Estimate(math.nan)
            row |= {key: estimate.value, f"{key}_standard_error": estimate.standard_error}
        rows.append(row)
    names = pd.Index([report.name for report in reports], name="model")
    return pd.DataFrame(rows, index=names).dropna(axis=1, how="all")


def _with_distinct_names(reports: Sequence[Report]) -> list[Report]:
    totals = Counter(report.name for report in reports)
    seen: Counter[str] = Counter()
    distinct = []
    for report in reports:
        seen[report.name] += 1
        number = f" ({seen[report.name]})" if totals[report.name] > 1 else ""
        distinct.append(replace(report, name=report.name + number))
    return distinct


def side_by_side(reports: Sequence[Report]) -> list[tuple[str, list[str]]]:
    """Return a label and a formatted number for each report, for each row of a table."""
    rows = [
        (QUANTITIES[key].label, [format_estimate(report.estimates.get(key)) for report in reports])
        for key in _known(reports)
    ]
    seconds = [
        f"{report.history['seconds'].max():.1f}" if len(report.history) else "unknown"
        for report in reports
    ]
    if any(len(report.history) for report in reports):
        rows.append(("Training, seconds", seconds))
    return rows


def _known(reports: Sequence[Report]) -> list[str]:
    """Names of the numbers that at least one report has, in the order of tables."""
    return [key for key in QUANTITIES if any(key in report.estimates for report in reports)]


def format_estimate(estimate: Estimate | None) -> str:
    """Format a number with its standard error, rounded to two digits of the error.

    >>> format_estimate(Estimate(44.6123, 0.0412)), format_estimate(Estimate(8.0, math.nan))
    ('44.612 ± 0.041', '8')
    >>> format_estimate(Estimate(8.517193, 1e-9)), format_estimate(None)
    ('8.517 ± 0.000', 'unknown')
    """
    if estimate is None or math.isnan(estimate.value):
        return "unknown"
    value, error = estimate.value, estimate.standard_error
    if math.isnan(error):
        return f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"
    digits = min(6, max(0, 1 - math.floor(math.log10(error)))) if error >= 1e-6 else 3
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _unit_table(report: Report) -> dict[str, Any]:
    """Labels of the columns, and for each unit (value to sort by, text) in each column."""
    formats = report.unit_formats
    return {
        "labels": [UNIT_LABELS.get(key, key) for key in formats],
        "rows": [
            [(float(unit[key]), _cell(unit[key], form)) for key, form in formats.items()]
            for unit in report.ranked_units.to_dict(orient="records")
        ],
    }


def _cell(value: Any, form: str) -> str:
    return ("yes" if value else "no") if isinstance(value, bool | np.bool_) else form.format(value)


def _certificate_table(name: str, certificate: Certificate) -> dict[str, Any]:
    """Name, verdict, and (meaning, formatted number) of each known number of a certificate."""
    return {
        "name": name,
        "verdict": certificate.verdict,
        "rows": [
            (certificate.meanings[key], format_estimate(estimate))
            for key, estimate in certificate.estimates.items()
            if estimate is not None
        ],
    }
