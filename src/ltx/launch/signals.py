"""Signals that end a command: the first one ends it in order, at a moment when nothing is half imported."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
AGAIN = 0.02  # seconds until a signal that came inside an import is looked at again


@contextlib.contextmanager
def interruptible(at_once: Callable[[], object]) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal (SIGHUP) raise KeyboardInterrupt within, once.

    A signal that arrives while a library is being imported waits until it is imported, so that none is left half
    loaded. A second Ctrl-C calls `at_once` and, unless that raises, ends the process with 130. SIGHUP that was ignored
    (nohup) stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and came:
            at_once()
            os._exit(130)
        first = not came
        came.append(number)
        if first:
            look(number, frame)

    def look(number: int, frame: FrameType | None) -> None:
        if importing(frame):
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
        else:
            raise KeyboardInterrupt

    handlers: dict[int, Any] = dict.fromkeys(ENDING, end) | {int(signal.SIGALRM): look}
    before = {n: signal.getsignal(n) for n in handlers if signal.getsignal(n) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handlers[number])
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def importing(frame: FrameType | None) -> bool:
    """Tell whether an import is under way in a stack of calls."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
