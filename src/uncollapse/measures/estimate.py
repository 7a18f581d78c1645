"""A number with its standard error, and records of named ones."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from uncollapse._utils.files import write_text


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error, NaN where it has none."""

    value: float
    standard_error: float = math.nan

    @classmethod
    def mean_of(cls, values: np.ndarray) -> Estimate:
        """Return the mean of independent values, with its standard error (NaN for one value)."""
        error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return Estimate(float(values.mean()), float(error))

    @classmethod
    def share(cls, share: float, n: int) -> Estimate:
        """Return a share of n independent examples, with its binomial error."""
        return Estimate(share, math.sqrt(share * (1 - share) / n))

    def exceeds(self, bound: float, n_errors: float = 3.0) -> bool:
        """Return whether the value is above a bound by more than `n_errors` standard errors."""
        return self.value > bound and not self.value - n_errors * self.standard_error <= bound


class Findings(ABC):
    """Base of records that hold named estimates."""

    meanings: ClassVar[Mapping[str, str]]
    estimates: dict[str, Estimate | None]

    def summary(self) -> pd.DataFrame:
        """Return one row for each quantity: ``value``, ``standard_error`` (NaN where there is none)
        and ``meaning``."""
        rows = []
        for name, estimate in self.estimates.items():
            known = estimate or Estimate(math.nan)
            rows.append((known.value, known.standard_error, self.meanings[name]))
        columns = ["value", "standard_error", "meaning"]
        return pd.DataFrame(rows, index=list(self.estimates), columns=columns)

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """Return what the JSON file holds beside the estimates."""

    def to_json(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write all numbers as JSON, without pictures; unknown numbers are null.

        Raises:
            FileError: if the file exists and `overwrite` is False, or cannot be written.
        """
        content = _without_nan({**self.content(), "estimates": self.numbers()})
        return write_text(path, json.dumps(content, indent=2) + "\n", overwrite)

    def numbers(self) -> dict[str, dict[str, float] | None]:
        """Return the values of the estimates with their errors; None for unknown ones."""
        return {
            name: None if estimate is None else vars(estimate)
            for name, estimate in self.estimates.items()
        }


def summary_text(table: pd.DataFrame) -> str:
    """Format the table of `Findings.summary` for a terminal."""
    values = ["unknown" if math.isnan(value) else f"{value:.4g}" for value in table["value"]]
    errors = ["" if math.isnan(error) else f"± {error:.2g}" for error in table["standard_error"]]
    columns = [table.index.tolist(), values, errors]
    widths = [max(map(len, column)) for column in columns]
    lines = zip(*columns, table["meaning"], strict=True)
    return "\n".join(
        f"{name:<{widths[0]}}  {value:>{widths[1]}}  {error:<{widths[2]}}  {meaning}"
        for name, value, error, meaning in lines
    )


def _without_nan(content: Any) -> Any:
    """Replace numbers that JSON lacks by None."""
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
