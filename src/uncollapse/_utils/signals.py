"""Ctrl-C and SIGTERM, deferred to the end of a training step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM, which clusters send before they take a machine."""


INTERRUPTS: dict[int, type[KeyboardInterrupt]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: Terminated,
}


class Interrupt:
    """A recorder of signals, which returns the one that has come."""

    def __init__(self) -> None:
        self._number = 0
        self._was_asked = False

    def __call__(self) -> int:
        """Return the signal that has come, one of `INTERRUPTS`, or 0."""
        self._was_asked = self._was_asked or self._number != 0
        return self._number

    @property
    def is_pending(self) -> bool:
        """Whether a signal has come that nobody has asked for."""
        return self._number != 0 and not self._was_asked

    def record(self, number: int, frame: FrameType | None) -> None:
        """Record a signal; a handler for `signal.signal`."""
        del frame
        self._number = number


@contextmanager
def raise_interrupts() -> Iterator[Interrupt]:
    """Raise `KeyboardInterrupt` at Ctrl-C and `Terminated` at SIGTERM within the block.

    Yields:
        A recorder of the signals. It stays empty outside the main thread, which alone receives
        them.
    """
    found = Interrupt()
    if not _is_main_thread():
        yield found
        return

    def handler(number: int, frame: FrameType | None) -> None:
        found.record(number, frame)
        raise INTERRUPTS[number]

    previous = {number: signal.signal(number, handler) for number in INTERRUPTS}
    try:
        yield found
    finally:
        # Handlers that somebody has set within the block stay.
        _restore({n: old for n, old in previous.items() if signal.getsignal(n) is handler})


_running: Interrupt | None = None


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Record Ctrl-C and SIGTERM within the block instead of interrupting it.

    An inner block shares the recorder of the outer one. A signal that nobody has asked for is
    raised at the end of the block. Outside the main thread nothing changes.
    """
    global _running
    if _running is not None or not _is_main_thread():
        yield Interrupt() if _running is None else _running
        return
    _running = found = Interrupt()
    previous = {number: signal.signal(number, found.record) for number in INTERRUPTS}
    try:
        yield found
    finally:
        _running = None
        _restore(previous)
        if found.is_pending:
            signal.raise_signal(found())


def raise_pending_signal() -> None:
    """Raise the signal that a surrounding `deferred_interrupt` has recorded, if any.

    Long work calls this before it has anything to save.
    """
    number = 0 if _running is None else _running()
    if number:
        raise INTERRUPTS[number]


def _restore(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():  # None: the handler was not set from Python.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
