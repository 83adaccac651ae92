"""Ending in order when somebody cancels the sweep, from whichever machine."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from ltx.launch.signals import interrupted

LOOK_SECONDS = 1.0  # between two looks at whether it is cancelled


@contextlib.contextmanager
def interrupted_when(cancelled: Callable[[], str | None]) -> Iterator[None]:
    """Interrupt this process as Ctrl-C would, once, when `cancelled` says who cancelled what it works on."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            said = cancelled()
            if interrupted():  # by a cluster that was told the same
                return
            if said is not None:
                print(f"ltx: {said}; ending.", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGINT)
                return

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
