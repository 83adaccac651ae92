"""Where tensors lie: what a process asks the system for and what it gives back, if its C library is glibc."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

# The numbers that glibc's malloc.h gives these settings, the values that it works with, and the largest piece that its
# heap takes once it has learnt the sizes of a program's pieces. It stops learning when it is told anything.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
LARGEST, PIECES = 32 * 2**20, 65536


@contextlib.contextmanager
def memory_kept() -> Iterator[None]:
    """Keep what is freed for the next tensor, and give it back to the system at the end.

    By default glibc gives large pieces back at once, and the system has to fill them with zeros when the next step
    asks for as much: a tenth of a convolutional network's step, and a fifth of a small one's. All steps ask for the
    same pieces. What follows a level's training does not: kept on, memory would have lain in pieces that do not fit.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):  # another C library: it is left as it is
        yield
        return
    libc.mallopt(M_TRIM_THRESHOLD, -1)  # never
    libc.mallopt(M_MMAP_MAX, 0)  # nothing lies outside of the heap, which would be given back at once
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, PIECES)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
        libc.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST)
        libc.malloc_trim(0)
