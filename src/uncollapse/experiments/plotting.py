"""Figures that belong to no screen."""

from __future__ import annotations

import io
from typing import Any

import numpy as np


def new_figure(
    n_rows: int, n_columns: int, width: float = 4.0, height: float = 3.2
) -> tuple[Any, np.ndarray]:
    """A figure that belongs to no screen, and its axes, shape (n_rows, n_columns)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * n_columns, height * n_rows), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False)


def as_png(figure: Any) -> bytes:
    """A figure as a PNG file has it."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()
