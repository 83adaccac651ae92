"""What figures share that look at networks and not at rows alone: finished tickets, and what any weights score."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from ltx.api import Run, Ticket, open_run
from ltx.config.spec import Spec
from ltx.figures.arms import Finished, Store
from ltx.identity.measure import Known
from ltx.tensors import Tensors
from ltx.training.evaluate import evaluate
from ltx.training.task import TASKS


def the_arm(store: Store, **facts: str | float) -> Finished:
    """Return the one finished arm that has these facts."""
    [found] = [done for done in store.arms if facts.items() <= done.arm.facts.items()]
    return found


def ticket(done: Finished, seed: int, level: int | None = None) -> Ticket:
    """Return what a level of a seed began with and ended at; the last level that was asked for unless told."""
    return known(done, seed, level).ticket


def known(done: Finished, seed: int, level: int | None = None) -> Known:
    """Return the same as what is compared with others."""
    return Known.of(opened(done.spec.directory), seed, done.spec.method.last_level if level is None else level)


@cache
def opened(directory: Path) -> Run:
    """Open a finished run, once for all its tickets."""
    return open_run(directory, trust=True)


class Scorer:
    """Scores any weights of one run's network on its test part."""

    def __init__(self, spec: Spec):
        self.network, self.form, self.task = spec.network(), spec.form, TASKS[spec.data.task]
        self.split = spec.data.test

    def __call__(self, weights: Tensors) -> tuple[float, float]:
        """Return loss and accuracy of the network with these weights, those of norms and biases among them."""
        with self.form.context("cpu"):
            return evaluate(self.network, weights, self.split, self.task, self.form)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread, as workers do: small networks are faster so, and sums have one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
