"""What this machine has."""

from __future__ import annotations

import math
import os


def memory_bytes() -> float:
    """The size of this machine's memory; infinity where the system does not say."""
    if not hasattr(os, "sysconf"):
        return math.inf
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
