"""Tables, the best model and the picture of a sweep."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from uncollapse._utils.files import write_bytes, write_text
from uncollapse.diagnostics.plotting import COLORS
from uncollapse.experiments.plotting import as_png, new_figure
from uncollapse.experiments.selection import SelectionRule
from uncollapse.experiments.tables import value_of

TABLE, PICTURE, BEST = "sweep.csv", "rate-distortion.png", "best.json"
MEASURES = ("nll_nats", "kl_nats", "mutual_information_nats", "active_units", "informative_units")
MAX_IN_LEGEND = 24

Row = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """Results of a sweep.

    Attributes:
        rows: of the trials, as in the results file.
        names: of the arguments that differ between trials.
        n_seeds: number of seeds of each configuration.
        rule: selects the best model.
        models: folder of the fitted models.
        failures: a sentence for each trial that failed for a reason that may pass.
    """

    rows: tuple[Row, ...]
    names: tuple[str, ...]
    n_seeds: int
    rule: SelectionRule
    models: Path
    failures: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """Return a row for each configuration: means over seeds, in nats, and their deviations.

        ``done``, ``stopped`` and ``failed`` count its trials; ``qualifies`` says whether its KL
        reaches the minimum of the rule.
        """
        return pd.DataFrame([self._summary(group) for group in self._groups])

    @cached_property
    def _groups(self) -> list[list[Row]]:
        """The rows of each configuration."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(json.dumps(row["labels"], sort_keys=True), []).append(row)
        return list(groups.values())

    def _summary(self, group: list[Row]) -> Row:
        done = finished(group)
        summary = {name: _cell(group[0]["labels"].get(name)) for name in self.names}
        for measure in MEASURES:
            values = pd.Series([value_of(row, measure) for row in done], dtype=float)
            summary[measure] = float(values.mean(skipna=False))
            summary[f"{measure}_deviation"] = float(values.std(skipna=False))
        summary["seconds"] = float(np.mean([row["seconds"] for row in done])) if done else math.nan
        summary["done"] = len(done)
        for column, entry in (("stopped", "stopped"), ("failed", "error")):
            summary[column] = sum(entry in row for row in group)
        summary["qualifies"] = bool(done) and self.rule.admits(summary["kl_nats"])
        return summary

    @property
    def best(self) -> Row | None:
        """The row of the best model, or None if no model qualifies.

        The rule selects a configuration among those with results for all seeds, and then the seed
        with the lowest rank. If none of these qualifies, it selects a single trial among the
        configurations with missing results.
        """
        complete = [group for group in self._groups if len(finished(group)) == self.n_seeds]
        summaries = [self._summary(group) for group in complete]
        qualified = [
            (summary["nll_nats"], index)
            for index, summary in enumerate(summaries)
            if summary["qualifies"]
        ]
        if qualified:
            return min(complete[min(qualified)[1]], key=self.rule.rank_row)
        rest = [row for group in self._groups if group not in complete for row in finished(group)]
        admitted = (row for row in rest if self.rule.admits(value_of(row, "kl_nats")))
        return min(admitted, key=self.rule.rank_row, default=None)

    @property
    def best_folder(self) -> Path | None:
        """The folder of the best model, for `uc.load`."""
        return None if self.best is None else self.models / self.best["key"]

    def __repr__(self) -> str:
        shown = self.table()[[*self.names, *MEASURES, "seconds", "done"]]
        text = shown.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.4g}")
        return f"{text}\n\nbest by {self.rule}:\n{self._describe_best()}"

    def _describe_best(self) -> str:
        best = self.best
        if best is None:
            highest = self.table()["kl_nats"].max()
            return f"none: the highest KL of a configuration is {highest:.3g} nats"
        labels = ", ".join(f"{name}={_cell(best['labels'][name])}" for name in self.names)
        nll, kl = (value_of(best, name) for name in ("nll_nats", "kl_nats"))
        numbers = f"NLL {nll:.2f}, KL {kl:.2f} nats"
        return f"{labels or best['model']}, seed {best['seed']}: {numbers}, in {self.best_folder}"

    def figure(self) -> Any:
        """Return a figure with a rate-distortion curve for each configuration.

        A point marks each seed, and a ring the best model.
        """
        figure, axes = new_figure(1, 1, width=8.0, height=5.0)
        axis = axes[0][0]
        for index, group in enumerate(filter(finished, self._groups)):
            curves = [np.array(row["curve"], dtype=float) for row in finished(group)]
            labels = (f"{name} {_cell(value)}" for name, value in group[0]["labels"].items())
            label = (", ".join(labels) or group[0]["model"]) if index < MAX_IN_LEGEND else None
            color = COLORS[index % len(COLORS)]
            axis.plot(*curves[0].T, color=color, linewidth=1, alpha=0.7)
            ends = np.array([curve[-1] for curve in curves])
            axis.scatter(*ends.T, s=18, color=color, label=label)
        if self.best is not None:
            ring = {"facecolors": "none", "edgecolors": "black", "label": "best"}
            axis.scatter(*self.best["curve"][-1], s=140, **ring)
        if self.rule.min_kl:
            axis.axvline(self.rule.min_kl, color="grey", linestyle=":", linewidth=1)
        xlabel, ylabel = "rate KL(q(z|x) ‖ p(z)), nats", "distortion -E log p(x|z), nats"
        axis.set(xlabel=xlabel, ylabel=ylabel, title="held-out data")
        axis.grid(alpha=0.3)
        figure.legend(fontsize=7, loc="outside right center")
        return figure

    def write(self, folder: Path) -> list[Path]:
        """Write the table, the best model and the picture, and return their paths."""
        best = self.best
        run = None if best is None else str(self.best_folder)
        found = {"rule": str(self.rule), "run": run, "trial": best}
        text = json.dumps(found, indent=2, allow_nan=False) + "\n"
        write_text(folder / TABLE, self.table().to_csv(index=False), overwrite=True)
        write_text(folder / BEST, text, overwrite=True)
        write_bytes(folder / PICTURE, as_png(self.figure()))
        return [folder / name for name in (TABLE, PICTURE, BEST)]


def finished(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of trials that ended with results."""
    return [row for row in rows if "estimates" in row]


def _cell(value: Any) -> Any:
    """Return a value of an argument as tables show it."""
    if value is None:
        return "None"
    return value if isinstance(value, int | float | str) else json.dumps(value)
