"""What the steps of a level keep of the memory they free, and what is given back when they end."""

from __future__ import annotations

import contextlib
import ctypes
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import SMALL, spec

from ltx.runs.levels import LevelLoop
from ltx.runs.worker import run_seed
from ltx.training import fit
from ltx.training.heap import memory_kept

SIZES = 2**18, 40 * 2**18  # numbers in a tensor of 1 and in one of 40 MB


def pages_filled() -> int:
    """Return how many pages the system has filled while tensors of the two sizes came and went twenty times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        list(map(torch.ones, SIZES))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def taken() -> int:
    """Return the bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library keeps memory in its own way")
def test_memory_of_a_step_is_kept_for_the_next_one_and_given_back_at_the_end() -> None:
    with memory_kept():
        pages_filled()  # until the heap has a place for each
        assert pages_filled() < 20_000  # in place of 209,920
        kept = taken()
    assert taken() < kept - 30e6


def test_all_steps_of_a_level_are_taken_so_and_nothing_else_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    @contextlib.contextmanager
    def planted() -> Iterator[None]:
        heard.append("kept")
        yield
        heard.append("given back")

    def told(of: Any, name: str) -> None:
        original = getattr(of, name)

        def telling(*given: Any) -> Any:
            heard.append(name)
            return original(*given)

        monkeypatch.setattr(of, name, telling)

    monkeypatch.setattr(fit, "memory_kept", planted)
    told(fit.Fit, "take_step")
    told(LevelLoop, "finish")
    run_seed(spec(*SMALL, "method.levels=0", "optim.steps=3").config, str(root / "run"), 0, lambda kind, value: None)
    assert heard == ["kept", *["take_step"] * 3, "given back", "finish"]
