"""What it saves to train the seeds of a run side by side, on this processor or on a GPU."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from bench import Line, assert_close, composed, medians

from ltx.config.spec import Spec
from ltx.data.splits import Dataset, Memory
from ltx.methods import State
from ltx.tensors import cpu, matrices
from ltx.training.fit import train
from ltx.training.replicas import train_all
from ltx.training.setup import Hooks, Setup, Trained

SGD = ("optim=sgd", "optim.lr=.1", "optim.momentum=.9")  # under Adam units without a gradient follow rounding
HOOKS = Hooks(lambda rows: None, lambda *_: None, lambda *_: None, 1e9)


def on_cpu() -> Iterator[Line]:
    """Yield a level of LeNet on the digits, eight seeds of it, for three widths; one thread."""
    for width, reach in ((0.25, 1.5), (1.0, 1.0), (4.0, 0.0)):
        spec = Spec.of(composed("method=dense", f"width={width}", "optim.steps=200", *SGD))
        yield line(f"8 LeNets x{width:g}, alone / together", spec, spec.data, 8, "cpu", reach)


def on_gpu(counts: Sequence[int] = (8, 64, 256)) -> Iterator[Line]:
    """Yield a level of LeNet on data of MNIST's size on a GPU, steps as CUDA graphs, for several numbers of seeds."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(60000, 1, 28, 28, generator=rng), torch.randint(0, 10, (60000,), generator=rng)
    val = Memory(x[54000:], y[54000:])
    data = Dataset(Memory(x[:54000], y[:54000]), val, val, 10)
    for count in counts:
        spec = Spec.of(composed("method=dense", "data=mnist", "optim.steps=1000", "optim.batch=128", *SGD))
        yield line(f"GPU {count} LeNets, alone / together", spec, data, count, "cuda", 5.0)


def line(name: str, spec: Spec, data: Dataset, count: int, device: str, reach: float) -> Line:
    """Return how many times longer the seeds of a level take one after another than together."""
    torch.set_num_threads(1)
    ends: dict[str, Any] = {}

    def alone() -> float:
        """Return the seconds of all seeds, of which some are timed."""
        some = min(count, 8)
        began = time.perf_counter()
        found = [train(one, device, spec.config["trainer"], None) for one in setups(spec, data, some)]
        ends["alone"] = found[0]
        return (time.perf_counter() - began) * count / some

    def together() -> float:
        began = time.perf_counter()
        ends["together"] = train_all(setups(spec, data, count), device, spec.config["trainer"], [None] * count)[0]
        return time.perf_counter() - began

    a, b = medians(alone, together)
    one, first = ends["alone"], ends["together"]
    assert isinstance(first, Trained)
    assert_close(name, one.weights, first.weights, 1e-3)
    steps = spec.optim.steps * count
    detail = f"{a / steps * 1e6:.0f} / {b / steps * 1e6:.0f} us a step of a seed; {count} seeds"
    return Line(name, a / b, reach, "x", True, detail)


def setups(spec: Spec, data: Dataset, count: int) -> list[Setup]:
    """Return what so many seeds of a level are trained with, half of their weights kept."""
    found = []
    for seed in range(count):
        streams = spec.streams(seed)
        network = spec.network(streams=streams)
        weights = cpu(dict(network.named_parameters()))
        rng = torch.Generator().manual_seed(seed)
        hidden = spec.method.prunable(matrices(network))
        mask = {name: torch.rand(weights[name].shape, generator=rng) < 0.5 for name in hidden}
        state = State(weights | {name: weights[name] * keep for name, keep in mask.items()}, {}, mask)
        plan, how = spec.plan(0), (spec.form, (), True)
        found.append(Setup(network, spec.method, state, plan, spec.optim, data, streams, HOOKS, *how))
    return found
