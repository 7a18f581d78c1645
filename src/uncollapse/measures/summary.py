"""What reports and certificates share: how they print and write numbers."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from uncollapse._utils.files import write_text
from uncollapse.measures.estimate import Estimate


class Findings(ABC):
    """Named estimates that print as a table and are written as JSON."""

    meanings: ClassVar[Mapping[str, str]]
    estimates: dict[str, Estimate | None]

    def summary(self) -> pd.DataFrame:
        """A row for each quantity: ``value``, ``standard_error`` (NaN where it has none) and
        ``meaning``."""
        known = {name: estimate or Estimate(math.nan) for name, estimate in self.estimates.items()}
        rows = [
            (estimate.value, estimate.standard_error, self.meanings[name])
            for name, estimate in known.items()
        ]
        return pd.DataFrame(rows, index=list(known), columns=["value", "standard_error", "meaning"])

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """What is written beside the estimates."""

    def to_json(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write all numbers, without pictures; null stands for those that are unknown.

        Raises:
            InputError: if the file exists and `overwrite` is False, or cannot be written.
        """
        return write_text(
            path,
            json.dumps(_finite({**self.content(), "estimates": self.numbers()}), indent=2) + "\n",
            overwrite,
        )

    def numbers(self) -> dict[str, dict[str, float] | None]:
        """The estimates as values with their errors; None for those that are unknown."""
        return {
            name: None if estimate is None else vars(estimate)
            for name, estimate in self.estimates.items()
        }


def summary_text(table: pd.DataFrame) -> str:
    """The table of `Findings.summary` for a terminal."""
    values = ["unknown" if math.isnan(value) else f"{value:.4g}" for value in table["value"]]
    errors = ["" if math.isnan(error) else f"± {error:.2g}" for error in table["standard_error"]]
    columns = [table.index.tolist(), values, errors]
    widths = [max(map(len, column)) for column in columns]
    lines = zip(*columns, table["meaning"], strict=True)
    return "\n".join(
        f"{name:<{widths[0]}}  {value:>{widths[1]}}  {error:<{widths[2]}}  {meaning}"
        for name, value, error, meaning in lines
    )


def _finite(content: Any) -> Any:
    """The same content with None for the numbers that JSON lacks."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
