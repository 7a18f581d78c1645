"""What an experiment is: trials, and what is made of their results."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from uncollapse.data import Data
from uncollapse.diagnostics import Report
from uncollapse.estimators import Estimator
from uncollapse.experiments import FitTrial, Kept, Parts, Trial
from uncollapse.experiments.trial import Watch

PAPERS = Path(__file__).parent / "published"
SCALES = ("smoke", "small", "paper")


@dataclass(frozen=True)
class Fit(FitTrial):
    """An estimator that is fitted to data of a paper.

    Attributes:
        data: the name of a data set, and what it takes.
        keep: whether figures need the fitted model of the first seed.
    """

    keep: bool = False

    def parts(self, seed: int) -> Parts:
        """Its data."""
        from uncollapse.experiments.papers.measure import load_parts

        return load_parts(self.data, seed)

    def further(self, estimator: Estimator, test: Data, report: Report) -> dict[str, Any]:
        """Of synthetic text, how much is found of the true latents."""
        from uncollapse.experiments.papers.measure import correlation_share

        if self.data["name"] != "synthetic-text":
            return {}
        share = {"value": correlation_share(estimator, test.X), "standard_error": math.nan}
        return {"estimates": {"correlation_share": share}}

    def execute(
        self, seed: int, folder: Path, verbose: bool, watch: Watch | None = None
    ) -> tuple[Kept, dict[str, Any]]:
        """Fit and measure."""
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="X holds values strictly between 0 and 1"
            )  # as intended
            return super().execute(seed, folder, verbose, watch)

    def keeps(self, seed: int) -> bool:
        """Whether figures need it."""
        return self.keep and seed == 0


# The fitted model of a trial's first seed, or None where it is not at hand.
Models = Callable[[Trial], Any]
# Makes a figure of the results and models of a scale.
Figure = Callable[[pd.DataFrame, Models, str], Any]


@dataclass(frozen=True)
class Experiment:
    """A figure or a table of a paper, to be computed anew.

    Attributes:
        title: in a line.
        trials: those of a scale.
        table: of the results (a row for each trial and seed), beside the paper's numbers.
        figures: by the name of the file that they go to.
        seeds: how many, by scale.
    """

    title: str
    trials: Callable[[str], Sequence[Trial]]
    table: Callable[[pd.DataFrame], pd.DataFrame]
    figures: dict[str, Figure]
    seeds: dict[str, int] = field(default_factory=lambda: {"smoke": 1, "small": 3, "paper": 3})


def paper_numbers(name: str) -> pd.DataFrame:
    """The numbers that a paper prints for an experiment, with their source."""
    return pd.read_csv(PAPERS / f"{name}.csv")


def paper_notes(name: str) -> str:
    """What must be said beside an experiment's table, in Markdown."""
    return (PAPERS / f"{name}.md").read_text(encoding="utf-8")
