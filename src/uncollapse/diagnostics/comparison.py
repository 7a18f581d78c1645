"""Models side by side that had the same budget, in numbers and as curves of rate and distortion."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from uncollapse._utils.files import write_text
from uncollapse.diagnostics.page import (
    COLOURS,
    LATENTS,
    RECONSTRUCTIONS,
    SAMPLES,
    SPECTRA,
    TRAINING,
    Figures,
    figures_of,
    format_estimate,
    panel,
    render,
)
from uncollapse.diagnostics.quantities import QUANTITIES
from uncollapse.diagnostics.report import Report
from uncollapse.measures.estimate import Estimate

# What the same budget means.
BUDGETS = {
    "evaluations": "the same evaluations of the decoder",
    "seconds": "the same seconds",
}
# Sections of a report's page that a comparison shows as well.
SHARED = (SPECTRA, LATENTS, RECONSTRUCTIONS, SAMPLES, TRAINING)
# A comparison's own columns, after those of reports that have a short name: what a table calls
# them, and what they mean.
OWN_COLUMNS = {
    "excess_nats": (
        "excess",
        "distortion, in nats, that another model's curve saves at the same rate; 0 on the frontier "
        "of all",
    ),
    "epochs": ("epochs", "passes over the training data, the last of which may be cut short"),
    "evaluations": (
        "evaluations",
        "of the decoder in training, one for each z (and symbol) that it is given",
    ),
    "seconds": ("seconds", "of training"),
}
COLUMNS = {
    key: (quantity.short, quantity.meaning)
    for key, quantity in QUANTITIES.items()
    if quantity.short
} | OWN_COLUMNS


@dataclass(frozen=True)
class Entry:
    """A model in a comparison.

    Attributes:
        model: its name.
        budget: what it had as much of as the others, a key of `BUDGETS`; None for the model that
            sets both.
        report: on test data; None where training failed.
        curve: of rates and distortions there, as `rate_distortion` makes them.
        error: why training failed.
    """

    model: str
    budget: str | None
    report: Report | None = None
    curve: pd.DataFrame | None = None
    error: str = ""

    def __repr__(self) -> str:
        if self.report is None:
            return f"{self.model}: {self.error}"
        cells = [
            f"{COLUMNS[key][0]} {format_estimate(self.report.estimates[key])}"
            for key in ("nll_nats", "kl_nats")
        ]
        return f"{self.model}: {', '.join(cells)}, {self.report.verdict}"


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        entries: models, the first of which set the budgets.
        notes: sentences on the data and the settings.
    """

    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()

    def view(self, budget: str) -> list[Entry]:
        """The models that had as much of this as each other."""
        return [entry for entry in self.entries if entry.budget in (None, budget)]

    def table(self) -> pd.DataFrame:
        """A row for each model and budget: estimates with their standard errors, what training
        took, and errors."""
        rows = []
        for budget in self._budgets():
            view = self.view(budget)
            for entry, found in zip(view, _estimates(view), strict=True):
                cells: dict[str, Any] = {"budget": budget, "model": entry.model}
                cells["verdict"] = None if entry.report is None else entry.report.verdict
                for key in self._columns():
                    estimate = found.get(key) or Estimate(math.nan, math.nan)
                    cells[key] = estimate.value
                    if key not in OWN_COLUMNS and not math.isnan(estimate.standard_error):
                        cells[f"{key}_standard_error"] = estimate.standard_error
                rows.append({**cells, "error": entry.error})
        return pd.DataFrame(rows)

    def curves(self) -> pd.DataFrame:
        """The curves of all models: ``budget``, ``model``, and the columns of `rate_distortion`."""
        parts = [
            entry.curve.assign(budget=budget, model=entry.model)
            for budget in self._budgets()
            for entry in self.view(budget)
            if entry.curve is not None
        ]
        return pd.concat(parts, ignore_index=True)[
            ["budget", "model", "share", "rate", "distortion"]
        ]

    def to_csv(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the table.

        Raises:
            InputError: if the file exists and `overwrite` is False, or cannot be written.
        """
        return write_text(path, self.table().to_csv(index=False), overwrite)

    def to_html(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write one page that needs nothing else, no network either.

        Raises:
            InputError: if the file exists and `overwrite` is False, or cannot be written.
        """
        return write_text(path, self._page(), overwrite)

    def __repr__(self) -> str:
        return "\n\n".join(
            f"With {BUDGETS[budget]}:\n{self.text(budget).to_string(index=False)}"
            for budget in self._budgets()
        )

    def text(self, budget: str) -> pd.DataFrame:
        """The table of a budget as people read it."""
        view = self.view(budget)
        rows = []
        for entry, found in zip(view, _estimates(view), strict=True):
            cells = {
                COLUMNS[key][0]: _cell(key, found.get(key)) if entry.report else ""
                for key in self._columns()
            }
            rows.append(
                {
                    "model": entry.model,
                    "verdict": entry.report.verdict if entry.report else "failed",
                    **cells,
                }
            )
        return pd.DataFrame(rows)

    def _budgets(self) -> list[str]:
        """Those that some model had."""
        return [
            budget for budget in BUDGETS if any(entry.budget == budget for entry in self.entries)
        ] or [*BUDGETS][:1]

    def _columns(self) -> list[str]:
        known = {key for entry in self.entries if entry.report for key in entry.report.estimates}
        return [key for key in COLUMNS if key in known or key in OWN_COLUMNS]

    def _page(self) -> str:
        first, *_ = self.entries
        views = []
        for budget in self._budgets():
            entries, texts = self.view(budget), self.text(budget)
            cells = texts.drop(columns=["model", "verdict"]).to_numpy().tolist()
            colours = cycle(COLOURS)
            rows = [
                {
                    "name": entry.model,
                    "colour": next(colours)
                    if entry.report
                    else "transparent",  # the curves skip what failed
                    "verdict": verdict,
                    "cells": row,
                    "error": entry.error,
                }
                for entry, verdict, row in zip(entries, texts["verdict"], cells, strict=True)
            ]
            note = f"{first.model} sets the budget; every other model was trained until it had used up as much."
            views.append({"heading": f"With {BUDGETS[budget]}", "note": note, "rows": rows})
        reports = [entry.report for entry in self.view(self._budgets()[0]) if entry.report]
        of_budget = f" With {BUDGETS[self._budgets()[0]]}."
        figures: list[Figures] = [
            (
                "Rate and distortion",
                CURVES_NOTE,
                [_curves_panel(self.view(budget), BUDGETS[budget]) for budget in self._budgets()],
            ),
            *(
                (heading, f"{note}{of_budget}", parts)
                for heading, note, parts in figures_of(reports, SHARED)
            ),
        ]
        return render(
            "comparison.html.j2",
            f"{len({entry.model for entry in self.entries})} models, one budget",
            self.notes,
            figures,
            views=views,
            columns=[COLUMNS[key][0] for key in self._columns()],
            meanings=[COLUMNS[key] for key in self._columns()],
        )


def _estimates(view: Sequence[Entry]) -> Iterable[dict[str, Estimate | None]]:
    """The numbers of each model in a view, by the keys of `COLUMNS`."""
    for entry in view:
        if entry.report is None or entry.curve is None:
            yield {}
            continue
        history = entry.report.history
        own = {
            "excess_nats": excess_distortion(
                entry.curve, [other.curve for other in view if other.curve is not None]
            ),
            "epochs": float(len(history)),
            "evaluations": float(history["evaluations"].max()),
            "seconds": float(history["seconds"].max()),
        }
        yield {
            **entry.report.estimates,
            **{key: Estimate(value, math.nan) for key, value in own.items()},
        }


def excess_distortion(curve: pd.DataFrame, others: Sequence[pd.DataFrame]) -> float:
    """How far a model lies above the lowest of all curves at its own rate, in nats; 0 on the
    frontier.

    Args:
        curve: the model's, whose last point is the model as it is.
        others: all curves, itself among them, by their `lower_edge`. One that ends at a lower rate
            counts with its last point, one that begins at a higher rate does not count.
    """
    rate, distortion = curve[["rate", "distortion"]].iloc[-1]
    edges = [edge for edge in map(lower_edge, others) if edge["rate"].iloc[0] <= rate]
    reached = [np.interp(rate, edge["rate"], edge["distortion"]) for edge in edges]
    return max(0.0, float(distortion - min([distortion, *reached])))


def lower_edge(curve: pd.DataFrame) -> pd.DataFrame:
    """The points of a curve of which no other has a lower rate and a lower distortion, by rising
    rates.

    A prior with components, towards which posteriors are drawn as if it were one Gaussian, can make
    rates fall before they rise.
    """
    points = curve.sort_values(["rate", "distortion"])
    return points[points["distortion"] < points["distortion"].cummin().shift(fill_value=np.inf)]


def _cell(key: str, estimate: Estimate | None) -> str:
    if estimate is not None and key in ("evaluations", "seconds"):
        return f"{estimate.value:,.{0 if key == 'evaluations' else 1}f}"
    if estimate is not None and key in ("excess_nats", "information_cap_nats"):
        return f"{estimate.value:.2f}"
    return format_estimate(estimate)


CURVES_NOTE = (
    "Each model's posteriors, drawn step by step towards its prior: what their latents cost, "
    "against what is lost without "
    "them, both in nats and measured on the same data. A dot or a diamond is the model as it was "
    "trained; lower and further to the "
    "left is better, and the frontier is the lower edge of all curves. Dashed lines join points of "
    "one negative ELBO. A model "
    "whose posterior is a flow has a dot alone. One that is far above the others is off the "
    "picture until you click it twice."
)


def _curves_panel(view: Sequence[Entry], caption: str) -> str:
    import plotly.graph_objects as go

    figure = go.Figure()
    curves = [(entry.model, entry.curve) for entry in view if entry.curve is not None]
    ends = pd.DataFrame([curve.iloc[-1] for _, curve in curves])
    low, most, high = ends["distortion"].quantile([0.0, 0.75, 1.0])
    high = min(
        high, low + 3 * (most - low)
    )  # one that has failed must not press the others into a line
    reach = max(high - low, 1.0)
    for number, ((name, curve), colour) in enumerate(zip(curves, cycle(COLOURS), strict=False)):
        dash, symbol = (
            ("solid", "circle") if number < len(COLOURS) else ("dot", "diamond")
        )  # for colours that come again
        line, marker = (
            {"color": colour, "width": 1.5, "dash": dash},
            {"size": 9, "color": colour, "symbol": symbol},
        )
        drawn = {"line": line, "marker": marker, "legendgroup": name}
        hover = f"{name}<br>rate %{{x:.2f}}<br>distortion %{{y:.2f}}<extra></extra>"
        for points, mode in ((lower_edge(curve), "lines"), (curve.tail(1), "markers")):
            figure.add_trace(
                go.Scatter(
                    x=points["rate"],
                    y=points["distortion"],
                    mode=mode,
                    name=name,
                    showlegend=mode == "markers",
                    hovertemplate=hover,
                    **drawn,
                )
            )
    top = float(ends["rate"].max())
    for sum_ in np.linspace(low, high + top, 6):
        figure.add_shape(
            type="line",
            x0=0,
            y0=sum_,
            x1=1.1 * top + 0.1,
            y1=sum_ - 1.1 * top - 0.1,
            line=_FAINT,
            layer="below",
        )
    figure.update_xaxes(
        title="rate: KL(q(z|x) ‖ p(z)), nats", range=[-0.02 * top, 1.05 * top + 0.1]
    )
    figure.update_yaxes(
        title="distortion: -E log p(x|z), nats", range=[low - 0.1 * reach, high + reach]
    )
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.2})
    return panel(figure, caption, height=520)


_FAINT = {"color": "#999999", "width": 0.5, "dash": "dash"}
