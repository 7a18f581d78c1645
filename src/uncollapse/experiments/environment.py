"""Provenance of a result: versions, commit, device and date."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uncollapse._utils.machine import processor_name
from uncollapse._version import __version__


def environment(device: str) -> dict[str, Any]:
    """Return versions, commit, device and date as values that JSON can hold."""
    is_gpu = device == "cuda"
    name = torch.cuda.get_device_name() if is_gpu else f"{device}, {processor_name()}"
    return {
        "finished": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "commit": _commit(),
        "uncollapse": __version__,
        "torch": torch.__version__,
        "lightning": version("lightning"),
        "zuko": version("zuko"),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": name,
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


@cache
def _commit() -> str | None:
    """Return the commit of the source tree, with "-dirty" after changes; None if installed."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(
                ["git", *words], cwd=root, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--", "src"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if changes else commit
