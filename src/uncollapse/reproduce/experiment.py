"""What an experiment is: runs that can be done in any order, and what is made of their results."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from uncollapse.estimators import Estimator, load
from uncollapse.estimators.base import INDIFFERENT
from uncollapse.estimators.building import resolve_device

PAPERS = Path(__file__).parent / "papers"
SCALES = ("smoke", "small", "paper")


class Kept(Protocol):
    """What a run makes that figures may need."""

    def save(self, path: str | Path, overwrite: bool = False) -> Any:
        """Write it into a folder."""


class Run(ABC):
    """One model on one data set.

    Attributes:
        model: what tables call it.
        labels: what tables group by beside the model, such as the data set or the noise.
        keep: whether figures need what the first seed has made.
    """

    model: str
    labels: dict[str, Any]
    keep: bool

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """All that decides over the result, but the seed, as JSON has it."""

    @abstractmethod
    def execute(self, seed: int, verbose: bool) -> tuple[Kept, dict[str, Any]]:
        """Compute it: what figures may need, and the row of results."""

    @staticmethod
    @abstractmethod
    def load(path: Path) -> Any:
        """What `execute` has kept, and `Kept.save` has written."""

    @property
    def device(self) -> str:
        """The kind of device that it computes on."""
        return "cpu"

    def key(self, seed: int) -> str:
        """What tells this run apart from all others."""
        content = json.dumps({**self.config(), "seed": seed}, sort_keys=True)
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Fit(Run):
    """An estimator that is fitted to data.

    Attributes:
        model: what tables call it.
        estimator: the name of a `uncollapse` estimator.
        arguments: of the estimator, without its seed.
        data: the name of a data set, and what it takes.
        labels: what tables group by beside the model, such as the data set or the noise.
        keep: whether figures need the fitted model of the first seed.
    """

    model: str
    estimator: str
    arguments: dict[str, Any]
    data: dict[str, Any]
    labels: dict[str, Any] = field(default_factory=dict)
    keep: bool = False

    def config(self) -> dict[str, Any]:
        """All that decides over the result, defaults too, but the seed, as JSON has it.

        Arguments that are None are left out, so that one which is new and not used changes no key.
        """
        arguments = Estimator.kinds[self.estimator](**self.arguments).get_params()
        chosen = {name: value for name, value in arguments.items() if name not in INDIFFERENT and value is not None}
        given = {"estimator": self.estimator, "arguments": chosen, "data": self.data}
        config: dict[str, Any] = json.loads(json.dumps(given))
        return config

    def execute(self, seed: int, verbose: bool) -> tuple[Kept, dict[str, Any]]:
        """Fit and measure."""
        from uncollapse.reproduce.measure import fit_and_measure

        return fit_and_measure(self, seed, verbose)

    @staticmethod
    def load(path: Path) -> Any:
        """The fitted estimator."""
        return load(path)

    @property
    def device(self) -> str:
        """The kind of device that it computes on."""
        return resolve_device(Estimator.kinds[self.estimator](**self.arguments).device)


# The fitted model of a run's first seed, or None where it is not at hand.
Models = Callable[[Run], Any]
# Makes a figure of the results and models of a scale.
Figure = Callable[[pd.DataFrame, Models, str], Any]


@dataclass(frozen=True)
class Experiment:
    """A figure or a table of a paper, to be computed anew.

    Attributes:
        title: in a line.
        runs: those of a scale.
        table: of the results (a row for each run and seed), beside the paper's numbers.
        figures: by the name of the file that they go to.
        seeds: how many, by scale.
    """

    title: str
    runs: Callable[[str], Sequence[Run]]
    table: Callable[[pd.DataFrame], pd.DataFrame]
    figures: dict[str, Figure]
    seeds: dict[str, int] = field(default_factory=lambda: {"smoke": 1, "small": 3, "paper": 3})


def paper_numbers(name: str) -> pd.DataFrame:
    """The numbers that a paper prints for an experiment, with their source."""
    return pd.read_csv(PAPERS / f"{name}.csv")


def paper_notes(name: str) -> str:
    """What must be said beside an experiment's table, in Markdown."""
    return (PAPERS / f"{name}.md").read_text(encoding="utf-8")
