"""Signals that end a command: the first one ends it in order, at a moment when no library is half way through."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
AGAIN = 0.02  # seconds until a signal that came inside a library is looked at again
PATIENCE = 1.5  # seconds that a signal waits at most for a library, in a process of ours that has written nothing yet
TOGETHER = 0.05  # seconds within which two signals are one wish: `timeout` sends its own twice
COMPOSING = ("hydra", "omegaconf")  # libraries that put another error in the place of an interrupt


@dataclass
class State:
    """What this process knows of its signals."""

    came: list[float] = field(default_factory=list)  # when each did, by time.monotonic
    writing: bool = False
    over: bool = False


_state = State()


def interrupted() -> bool:
    """Tell whether a signal has come that ends the command under way."""
    return bool(_state.came)


def writing_begins() -> None:
    """Say that files are written from now on, so that a signal may no longer end the process in the middle."""
    _state.writing = True


@contextlib.contextmanager
def interruptible(at_once: Callable[[], object], to_the_end: bool = False) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal (SIGHUP) raise KeyboardInterrupt within, once.

    A signal that arrives inside an import or inside Hydra waits until that is over, so that no library is left half
    loaded. An interrupt that a library turned into another exception leaves as KeyboardInterrupt all the same. A second
    Ctrl-C calls `at_once` and, unless that raises, ends the process with 130. SIGHUP that was ignored (nohup) stays so.

    `to_the_end`: the process is ours and ends after this. Then the handlers stay, a second signal of any kind ends it
    at once, as does every signal after the block, and before anything is written an import is waited for only briefly.
    """
    global _state
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    state = _state = State()

    def end(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        first = not state.came
        again = not first and (number == signal.SIGINT or (to_the_end and now - state.came[0] > TOGETHER))
        state.came.append(now)
        if state.over or again:
            end_now()
        elif first:
            look(number, frame)

    def look(number: int, frame: FrameType | None) -> None:
        if not inside_a_library(frame):
            raise KeyboardInterrupt
        if to_the_end and not state.writing and time.monotonic() - state.came[0] > PATIENCE:
            end_now()
        signal.setitimer(signal.ITIMER_REAL, AGAIN)

    def end_now() -> None:
        at_once()
        os._exit(130)

    handlers: dict[int, Any] = dict.fromkeys(ENDING, end) | {int(signal.SIGALRM): look}
    before = {n: signal.getsignal(n) for n in handlers if signal.getsignal(n) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handlers[number])
    try:
        yield
    except BaseException as error:
        if state.came and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        state.over = to_the_end
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not to_the_end:
            for number, handler in before.items():
                signal.signal(number, handler)
            _state = State()


def inside_a_library(frame: FrameType | None) -> bool:
    """Tell whether a stack of calls is inside an import, or inside a library that must not be interrupted."""
    while frame is not None:
        library = str(frame.f_globals.get("__name__")).partition(".")[0]
        if frame.f_code.co_filename.startswith("<frozen importlib") or library in COMPOSING:
            return True
        frame = frame.f_back
    return False
