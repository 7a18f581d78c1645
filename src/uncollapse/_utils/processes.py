"""Which of the processes that train one model this is."""

from __future__ import annotations

import os


def is_first_process() -> bool:
    """Whether this process is the one that writes and speaks, of those that train one model
    together.

    They are told by torchrun (RANK), or by Lightning, which starts the others of a machine
    (LOCAL_RANK).
    """
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return (os.environ.get("LOCAL_RANK", "0"), os.environ.get("NODE_RANK", "0")) == ("0", "0")
