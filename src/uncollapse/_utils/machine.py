"""Properties of this machine."""

from __future__ import annotations

import math
import os
import platform
from functools import cache
from pathlib import Path


def memory_bytes() -> float:
    """Return the size of this machine's memory, or infinity if the system does not tell it."""
    if not hasattr(os, "sysconf"):
        return math.inf
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


@cache
def processor_name() -> str:
    """Return the name of the processor, or its architecture where the system gives no name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # another system, or one that does not tell
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
