"""Matplotlib figures that need no display."""

import io
from typing import Any

import numpy as np


def new_figure(
    n_rows: int, n_columns: int, width: float = 4.0, height: float = 3.2
) -> tuple[Any, np.ndarray]:
    """Return a figure and its axes, shape (n_rows, n_columns); sizes are inches of one panel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * n_columns, height * n_rows), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False)


def as_png(figure: Any) -> bytes:
    """Return the bytes of a PNG file of the figure."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()
