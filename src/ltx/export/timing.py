"""How long a network takes to compute, dense with its mask against compressed."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

BATCHES = (1, 256)
WARM_UP, ROUNDS, MOST, FEWEST = 3, 20, 500, 3
SHORT, LONG = 0.2, 30.0  # seconds: rounds go on until the first, and end at the second however few they are


@dataclass(frozen=True)
class Times:
    """The median milliseconds of a batch over alternating rounds, of the dense network and of the compressed one."""

    batch: int
    dense: float
    compressed: float
    rounds: int


def measured(dense: nn.Module, compressed: nn.Module, x: Tensor, threads: int) -> list[Times]:
    """Return the times of two networks for every size of a batch, made of examples x as often as it takes."""
    found = []
    with held_to(threads), torch.inference_mode():
        for batch in BATCHES:
            examples = x[torch.arange(batch) % len(x)]
            one, other = alternating((dense, compressed), examples)
            found.append(Times(batch, 1000 * statistics.median(one), 1000 * statistics.median(other), len(one)))
    return found


def alternating(networks: Sequence[nn.Module], x: Tensor) -> list[list[float]]:
    """Return the seconds that networks take for a batch in turns, so that what disturbs one disturbs all."""
    times: list[list[float]] = [[] for _ in networks]
    for network in networks:
        for _ in range(WARM_UP):
            network(x)
    begun = time.perf_counter()
    while going(len(times[0]), time.perf_counter() - begun):
        for own, network in zip(times, networks, strict=True):
            before = time.perf_counter()
            network(x)
            own.append(time.perf_counter() - before)
    return times


def going(rounds: int, seconds: float) -> bool:
    """Tell whether another round is measured."""
    if rounds < ROUNDS:
        return rounds < FEWEST or seconds < LONG
    return rounds < MOST and seconds < SHORT


@contextmanager
def held_to(threads: int) -> Iterator[None]:
    """Let torch compute with a number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def processor() -> str:
    """Name the machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
