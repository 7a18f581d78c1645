"""The state of a training on disk, from which another process goes on as if nothing had
happened."""

from __future__ import annotations

from pathlib import Path

from uncollapse._utils.files import write_bytes
from uncollapse._utils.processes import is_first_process
from uncollapse._utils.run_folders import LOG_FILE
from uncollapse._utils.state_files import StateFolder


class Checkpoint(StateFolder):
    """A folder that holds the state of one training, in one phase or several
    (`uncollapse._utils.run_folders.PHASES`), and its log.

    Args:
        folder: need not exist.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "training")

    def open_log(self, n_lines: int) -> Path:
        """The log, cut to so many lines: those of the epochs that are done."""
        path = self.folder / LOG_FILE
        if is_first_process():
            lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
            write_bytes(path, b"".join(lines[:n_lines]))
        return path
