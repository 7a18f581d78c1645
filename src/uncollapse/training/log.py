"""The log of a training: one JSON line for each epoch, with all that the progress bar shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only


class JsonLines(Logger):
    """Appends what Lightning logs at the end of each epoch to a file.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def name(self) -> None:
        """None: there are no folders."""

    @property
    def version(self) -> None:
        """None: there is one."""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: what the training is stands beside the log."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write a line."""
        numbers = {name: float(f"{value:.7g}") for name, value in metrics.items()}
        row = {"epoch": int(numbers.pop("epoch")), **numbers}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
