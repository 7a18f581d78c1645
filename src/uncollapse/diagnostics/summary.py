"""What reports and certificates share: whom they look at, and how they print and write numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import pandas as pd

from uncollapse.diagnostics.collapse import Estimate
from uncollapse.errors import InputError
from uncollapse.models import VAE


class Fitted(Protocol):
    """A fitted estimator, as far as a diagnosis needs it."""

    model_: VAE
    history_: pd.DataFrame

    def check_rows(self, X: Any) -> np.ndarray:
        """Rows as float32, or an `InputError`."""


def as_fitted(model: Any) -> Fitted:
    """The model itself, or an `InputError` if it is not a fitted estimator."""
    if not (hasattr(model, "check_rows") and hasattr(model, "model_")):
        raise InputError(f"expected a fitted estimator of this package, got {type(model).__name__}: call fit first.")
    fitted: Fitted = model
    return fitted


def summary_table(estimates: Mapping[str, Estimate | None], meanings: Mapping[str, str]) -> pd.DataFrame:
    """A row for each quantity: ``value``, ``standard_error`` (NaN where it has none) and ``meaning``."""
    known = {name: estimate or Estimate(math.nan, math.nan) for name, estimate in estimates.items()}
    rows = [(estimate.value, estimate.standard_error, meanings[name]) for name, estimate in known.items()]
    return pd.DataFrame(rows, index=list(known), columns=["value", "standard_error", "meaning"])


def summary_text(table: pd.DataFrame) -> str:
    """The table of `summary_table` for a terminal."""
    values = ["unknown" if math.isnan(value) else f"{value:.4g}" for value in table["value"]]
    errors = ["" if math.isnan(error) else f"± {error:.2g}" for error in table["standard_error"]]
    columns = [table.index.tolist(), values, errors]
    widths = [max(map(len, column)) for column in columns]
    lines = zip(*columns, table["meaning"], strict=True)
    return "\n".join(
        f"{name:<{widths[0]}}  {value:>{widths[1]}}  {error:<{widths[2]}}  {meaning}" for name, value, error, meaning in lines
    )


def summary_json(content: Any) -> str:
    """JSON with null for the numbers that it lacks."""
    return json.dumps(_finite(content), indent=2) + "\n"


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
