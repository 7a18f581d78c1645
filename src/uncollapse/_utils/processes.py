"""Identification of this process among those that train one model together."""

from __future__ import annotations

import os


def is_first_process() -> bool:
    """Return whether this process is the one that writes files and prints.

    torchrun sets RANK; Lightning sets LOCAL_RANK and NODE_RANK.
    """
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return (os.environ.get("LOCAL_RANK", "0"), os.environ.get("NODE_RANK", "0")) == ("0", "0")
