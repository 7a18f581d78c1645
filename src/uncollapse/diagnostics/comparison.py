"""Comparison of models trained with the same budget, in numbers and rate-distortion curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from uncollapse._utils.files import write_text
from uncollapse.diagnostics import plotting
from uncollapse.diagnostics.page import format_estimate, render, shared_figures
from uncollapse.diagnostics.quantities import QUANTITIES
from uncollapse.diagnostics.report import Report
from uncollapse.measures.estimate import Estimate

BUDGETS = {
    "evaluations": "the same number of decoder evaluations",
    "seconds": "the same training time",
}
# Heading and meaning of each column. Those of reports come first.
OWN_COLUMNS = {
    "excess_nats": (
        "excess",
        "distortion above the lowest of all curves at the same rate, in nats; 0 on the frontier",
    ),
    "epochs": ("epochs", "passes over the training data; the last one may be partial"),
    "evaluations": (
        "evaluations",
        "decoder evaluations in training, one for each z (and symbol) decoded",
    ),
    "seconds": ("seconds", "training time"),
}
COLUMNS = {
    key: (quantity.short, quantity.meaning)
    for key, quantity in QUANTITIES.items()
    if quantity.short
} | OWN_COLUMNS
# Formats of the columns without a standard error.
FORMATS = {
    "evaluations": "{:,.0f}",
    "seconds": "{:,.1f}",
    "excess_nats": "{:.2f}",
    "information_cap_nats": "{:.2f}",
}


@dataclass(frozen=True)
class Entry:
    """A model in a comparison.

    Attributes:
        model: its name.
        budget: the key of `BUDGETS` in which it equals the others; None for the model that sets
            both.
        report: on test data; None if training failed.
        curve: rates and distortions on the same data, as `rate_distortion` returns them.
        error: why training failed.
    """

    model: str
    budget: str | None
    report: Report | None = None
    curve: pd.DataFrame | None = None
    error: str = ""

    @property
    def estimates(self) -> dict[str, Estimate | None]:
        """Estimates of the report, and the costs of the training."""
        if self.report is None:
            return {}
        history = self.report.history
        costs = {
            "epochs": len(history),
            "evaluations": history["evaluations"].max(),
            "seconds": history["seconds"].max(),
        }
        return self.report.estimates | {key: Estimate(float(n)) for key, n in costs.items()}

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
    """Result of `compare`.

    Attributes:
        entries: the models; the first one sets the budgets.
        notes: sentences about the data and the settings.
    """

    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()

    def view(self, budget: str) -> list[Entry]:
        """Return the models that were trained with the same budget of this kind."""
        return [entry for entry in self.entries if entry.budget in (None, budget)]

    def table(self) -> pd.DataFrame:
        """Return a row for each budget and model, with standard errors, costs and errors."""
        rows = []
        for budget in self._budgets():
            for entry, estimates in self._estimates(budget):
                cells: dict[str, Any] = {"budget": budget, "model": entry.model}
                cells["verdict"] = None if entry.report is None else entry.report.verdict
                for key in self._columns():
                    estimate = estimates.get(key) or Estimate(math.nan)
                    cells[key] = estimate.value
                    if key not in OWN_COLUMNS and not math.isnan(estimate.standard_error):
                        cells[f"{key}_standard_error"] = estimate.standard_error
                rows.append({**cells, "error": entry.error})
        return pd.DataFrame(rows)

    def text(self, budget: str) -> pd.DataFrame:
        """Return the table of one budget with formatted numbers."""
        rows = []
        for entry, estimates in self._estimates(budget):
            cells = {"model": entry.model}
            cells["verdict"] = entry.report.verdict if entry.report else "failed"
            for key in self._columns():
                cells[COLUMNS[key][0]] = _cell(key, estimates.get(key)) if entry.report else ""
            rows.append(cells)
        return pd.DataFrame(rows)

    def curves(self) -> pd.DataFrame:
        """Return the rate-distortion curves of all models, with ``budget`` and ``model``."""
        parts = [
            entry.curve.assign(budget=budget, model=entry.model)
            for budget in self._budgets()
            for entry in self.view(budget)
            if entry.curve is not None
        ]
        columns = ["budget", "model", "share", "rate", "distortion"]
        return pd.concat(parts, ignore_index=True)[columns]

    def to_csv(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the table.

        Raises:
            FileError: if the file exists and `overwrite` is False, or cannot be written.
        """
        return write_text(path, self.table().to_csv(index=False), overwrite)

    def to_html(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write one self-contained page, which needs no network; raise as `to_csv` does."""
        return write_text(path, self._render(), overwrite)

    def __repr__(self) -> str:
        return "\n\n".join(
            f"With {BUDGETS[budget]}:\n{self.text(budget).to_string(index=False)}"
            for budget in self._budgets()
        )

    def _budgets(self) -> list[str]:
        """Budgets of the models after the first one."""
        given = {entry.budget for entry in self.entries}
        return [budget for budget in BUDGETS if budget in given] or [*BUDGETS][:1]

    def _columns(self) -> list[str]:
        known = {key for entry in self.entries if entry.report for key in entry.report.estimates}
        return [key for key in COLUMNS if key in known or key in OWN_COLUMNS]

    def _estimates(self, budget: str) -> Iterator[tuple[Entry, dict[str, Estimate | None]]]:
        """Each model of a budget with all of its numbers."""
        view = self.view(budget)
        curves = [entry.curve for entry in view if entry.curve is not None]
        for entry in view:
            excess: dict[str, Estimate | None] = {}
            if entry.curve is not None:
                excess["excess_nats"] = Estimate(excess_distortion(entry.curve, curves))
            yield entry, entry.estimates | excess

    def _render(self) -> str:
        budgets = self._budgets()
        reports = [entry.report for entry in self.view(budgets[0]) if entry.report]
        rate_distortion = [
            plotting.rate_distortion(
                [
                    (entry.model, entry.curve, lower_edge(entry.curve))
                    for entry in self.view(budget)
                    if entry.curve is not None
                ],
                BUDGETS[budget],
            )
            for budget in budgets
        ]
        return render(
            "comparison.html.j2",
            title=f"{len({entry.model for entry in self.entries})} models, one budget",
            introduction=self.notes,
            reference=self.entries[0].model,
            views=[{"budget": BUDGETS[name], "rows": self._page_rows(name)} for name in budgets],
            columns=[COLUMNS[key] for key in self._columns()],
            figures=shared_figures(reports) | {"rate_distortion": rate_distortion},
        )

    def _page_rows(self, budget: str) -> list[dict[str, Any]]:
        """Each model of a budget, with the color of its curve and its formatted numbers."""
        colors = cycle(plotting.COLORS)
        rows = []
        for entry, (_, cells) in zip(self.view(budget), self.text(budget).iterrows(), strict=True):
            model, verdict, *numbers = cells
            # Models that failed have no curve, so they use up no color.
            color = next(colors) if entry.report else "transparent"
            row = {"model": model, "verdict": verdict, "cells": numbers}
            rows.append(row | {"color": color, "error": entry.error})
        return rows


def excess_distortion(curve: pd.DataFrame, others: Iterable[pd.DataFrame]) -> float:
    """Distortion of a model, the last point of its curve, above the lowest of all curves at its
    rate, in nats.

    It is 0 on the frontier. A curve that ends at a lower rate counts with its last point, and one
    that begins at a higher rate does not count.
    """
    rate, distortion = curve[["rate", "distortion"]].iloc[-1]
    edges = [edge for edge in map(lower_edge, others) if edge["rate"].iloc[0] <= rate]
    reached = [np.interp(rate, edge["rate"], edge["distortion"]) for edge in edges]
    return max(0.0, float(distortion - min([distortion, *reached])))


def lower_edge(curve: pd.DataFrame) -> pd.DataFrame:
    """Return the points that no other point beats in both rate and distortion, by rising rate.

    Rates can fall before they rise where a mixture prior is treated as one Gaussian.
    """
    points = curve.sort_values(["rate", "distortion"])
    return points[points["distortion"] < points["distortion"].cummin().shift(fill_value=np.inf)]


def _cell(key: str, estimate: Estimate | None) -> str:
    if estimate is not None and key in FORMATS:
        return FORMATS[key].format(estimate.value)
    return format_estimate(estimate)
