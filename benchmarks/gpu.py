"""On a GPU: a step against a plain Lightning loop, the share of its matmul rate, and seeds side by side.

Everything here needs CUDA; `make bench ARGS=gpu` says so where there is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import replicas
import torch
from bench import Line, assert_close, fit, medians, of_mnists_size
from reference import lightning_loop
from steps import BATCH, SGD, SHAPE, STREAMS, beginning, composed
from torch.utils.flop_counter import FlopCounterMode

from ltx.config.spec import Spec
from ltx.data.batches import Batches
from ltx.data.splits import Dataset, Memory
from ltx.training.fit import Fit
from ltx.training.rows import fits
from ltx.training.setup import Hooks, Setup

STEPS = 468  # an epoch of MNIST in batches of 128


def lines() -> Iterator[Line]:
    """Yield all lines, or none where there is no GPU."""
    if not torch.cuda.is_available():
        print("gpu: none here")
        return
    print(f"gpu: {torch.cuda.get_device_name()}, torch {torch.__version__}")
    yield from lenet_step()
    yield from compressed_step()
    yield from matmul_share()
    yield from replicas.on_gpu()


def synchronised(call: Callable[[], object]) -> float:
    """Return the seconds a call takes, the GPU's work included."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def lenet_step() -> Iterator[Line]:
    """Yield B1 on the GPU."""
    level = of_mnists_size(density=0.5, steps=STEPS)
    steps, train = level.spec.optim.steps, level.data.train
    batches = Batches(level.data, BATCH, level.streams).indices(0, steps).numpy()
    ends: dict[str, Any] = {}

    def ours(graphs: bool) -> float:
        seconds, trained, _ = fit(level, device="cuda", graphs=graphs)
        ends[str(graphs)] = trained.weights
        return seconds / steps

    def plain() -> float:
        level.network.load_state_dict(level.state.weights)
        loop = partial(lightning_loop, level.network, level.state.mask, train.x, train.y, batches, level.spec.optim.lr)
        seconds = synchronised(lambda: loop(accelerator="gpu"))
        ends["plain"] = {name: tensor.detach().cpu() for name, tensor in level.network.named_parameters()}
        return seconds / steps

    a, b, c = medians(partial(ours, True), partial(ours, False), plain)
    for graphs in ("True", "False"):
        assert_close(f"GPU LeNet, graphs {graphs}", ends[graphs], ends["plain"], 1e-4)
    yield Line("GPU LeNet step, plain / ltx", c / a, 1.25, "x", True, f"{c * 1e3:.2f} / {a * 1e3:.2f} ms")
    yield Line("GPU LeNet step, single / graphs", b / a, 1.0, "x", True, f"{b * 1e3:.2f} / {a * 1e3:.2f} ms")


def compressed_step() -> Iterator[Line]:
    """Yield what compressed rows at 5 % density cost or save on the GPU, which `trainer.sparse_cuda` goes by."""
    level = of_mnists_size(density=0.05, steps=STEPS)
    rows, steps = fits(level.network, level.spec.form), level.spec.optim.steps
    a, b = medians(lambda: fit(level, rows, "cuda")[0], lambda: fit(level, device="cuda")[0])
    detail = f"{b / steps * 1e3:.2f} / {a / steps * 1e3:.2f} ms; dense is used below 1"
    yield Line("GPU LeNet at 5%, dense / rows", b / a, 1.0, "x", True, detail)


def matmul_share() -> Iterator[Line]:
    """Yield which share of the GPU's own rate of products of matrices the steps of convolutional networks reach."""
    for precision, kind in (("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)):
        n = 8192
        x, y = (torch.randn(n, n, device="cuda", dtype=kind) for _ in range(2))
        (seconds,) = medians(lambda x=x, y=y: synchronised(lambda: [x @ y for _ in range(5)]) / 5)  # type: ignore[misc]
        peak = 2 * n**3 / seconds
        for model in ("conv4", "resnet20"):
            spec = Spec.of(composed("method=dense", f"model={model}", *SGD, f"trainer.precision={precision}"))
            step, work = conv_step(spec)
            (each,) = medians(step)
            rate = work / each
            detail = f"{rate / 1e12:.1f} of {peak / 1e12:.0f} Tflop/s, {each * 1e3:.2f} ms a step"
            yield Line(f"GPU {model} {precision}", rate / peak, 0.0, "", True, detail)


def conv_step(spec: Spec) -> tuple[Callable[[], float], float]:
    """Return a function that takes 20 steps and returns the seconds of one, and the operations of a step."""
    rng = torch.Generator().manual_seed(0)
    part = Memory(torch.randn(1024, *SHAPE, generator=rng), torch.randint(0, 10, (1024,), generator=rng))
    data = Dataset(part, part, part, 10)
    network, state = beginning(spec)
    network = spec.form.network(network)
    hooks = Hooks(lambda rows: None, lambda *_: None, lambda *_: None, 1e9)
    plan = replace(spec.plan(0), anchor=None)
    fit = Fit(Setup(network, spec.method, state, plan, spec.optim, data, STREAMS, hooks, spec.form)).cuda()
    fit.leaves.place(torch.device("cuda"))
    optimiser, steps = fit.configure_optimizers(), 20
    with FlopCounterMode(display=False) as counter:
        network(spec.form.inputs(part.x[:BATCH].cuda()))
    network.train()

    def run() -> float:
        fit.batches = Batches(data, BATCH, STREAMS, "cuda").stream(0, steps)
        fit.watch.waiting.clear()

        def go() -> None:
            with spec.form.context("cuda"):
                for step in range(steps):
                    fit.take_step(step, optimiser)

        return synchronised(go) / steps

    return run, 3 * counter.get_total_flops()
