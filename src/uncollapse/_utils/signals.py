"""Ctrl-C, and SIGTERM as clusters send it before they take a machine, that wait for the end of a
step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM."""


# What a signal stands for.
INTERRUPTS: dict[int, type[KeyboardInterrupt]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: Terminated,
}


class Interrupt:
    """A signal that has come, and waits to be asked for."""

    def __init__(self) -> None:
        self._number = 0
        self._is_told = False

    def __call__(self) -> int:
        """The signal, one of `INTERRUPTS`; 0 if none has come."""
        self._is_told = self._is_told or self._number != 0
        return self._number

    @property
    def is_waiting(self) -> bool:
        """Whether a signal has come that nobody has asked for."""
        return self._number != 0 and not self._is_told

    def listen(self) -> None:
        """Be told of signals, even if somebody else has begun to be since."""
        if _is_main_thread():
            for number in INTERRUPTS:
                signal.signal(number, self._press)

    def _press(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._number = number


@contextmanager
def raise_interrupts() -> Iterator[Interrupt]:
    """Within the block, Ctrl-C raises `KeyboardInterrupt` and SIGTERM `Terminated`, whoever else
    listens to them.

    Yields:
        Which of them has come. Outside the main thread, which alone receives signals, none does.
    """
    found = Interrupt()
    if not _is_main_thread():
        yield found
        return

    def end(number: int, frame: FrameType | None) -> None:
        found._press(number, frame)
        raise INTERRUPTS[number]

    previous = {number: signal.signal(number, end) for number in INTERRUPTS}
    try:
        yield found
    finally:
        for number, handler in previous.items():
            if signal.getsignal(number) is end:  # and not what somebody has chosen for the way out
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


_running: Interrupt | None = None


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Record Ctrl-C and SIGTERM instead of raising `KeyboardInterrupt` and ending the process.

    A block inside another one sees what was pressed in the outer one. What nobody has asked for
    comes at the end of the block. Outside the main thread, which alone receives signals, nothing
    changes.
    """
    global _running
    if _running is not None or not _is_main_thread():
        yield Interrupt() if _running is None else _running
        return
    previous = {number: signal.getsignal(number) for number in INTERRUPTS}
    _running = found = Interrupt()
    found.listen()
    try:
        yield found
    finally:
        _running = None
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if found.is_waiting:
            signal.raise_signal(found())


def raise_pending_signal() -> None:
    """Within a block of `deferred_interrupt`, raise what has been pressed: for long work before
    there is anything to save."""
    number = 0 if _running is None else _running()
    if number:
        raise INTERRUPTS[number]


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
