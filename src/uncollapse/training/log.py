"""What a training tells at the end of each epoch, all that the progress bar shows: to a function,
or as JSON lines to a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from uncollapse._utils.files import cannot_write


class CallbackLogger(Logger):
    """Tells a function what Lightning logs at the end of each epoch: its number, and the numbers
    beside the progress bar.

    Args:
        tell: receives them by name.
    """

    def __init__(self, tell: Callable[[dict[str, float]], None]) -> None:
        super().__init__()
        self.tell = tell

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
        """Tell of an epoch."""
        self.tell(dict(metrics))


class JsonLines(CallbackLogger):
    """Appends what Lightning logs at the end of each epoch to a file.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(self._write)
        self.path = path

    def _write(self, metrics: dict[str, float]) -> None:
        numbers = {name: float(f"{value:.7g}") for name, value in metrics.items()}
        row = {"epoch": int(numbers.pop("epoch")), **numbers}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from None
