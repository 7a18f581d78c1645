"""Ctrl-C that waits for the end of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_running: threading.Event | None = None


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Record Ctrl-C instead of raising `KeyboardInterrupt`.

    A block inside another one sees what was pressed in the outer one. Outside the main thread, which alone receives signals,
    nothing changes.

    Yields:
        A function that tells whether Ctrl-C has been pressed.
    """
    global _running
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    if _running is not None:
        yield _running.is_set
        return
    pressed = threading.Event()

    def press(signal_number: int, frame: FrameType | None) -> None:
        del signal_number, frame
        pressed.set()

    previous = signal.signal(signal.SIGINT, press)
    _running = pressed
    try:
        yield pressed.is_set
    finally:
        _running = None
        signal.signal(signal.SIGINT, previous)
