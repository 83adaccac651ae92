"""B4, B5, B7 and the share of steps in a level: convolutional networks at the size of CIFAR, one thread.

Seconds are those of the processor, so that other programs on the machine disturb less.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from bench import LTX, Line, apart, command, composed, medians
from reference import masked_step, score_step, stacked

from ltx.config.schema import checked
from ltx.config.signatures import pretrained
from ltx.config.spec import Spec
from ltx.data.batches import Batches
from ltx.data.splits import MEASURED, Dataset, Memory, grid_size
from ltx.methods import State
from ltx.models import initialise
from ltx.streams import Streams
from ltx.tensors import Tensors, buffers, cpu, matrices
from ltx.training.evaluate import evaluate
from ltx.training.fit import Fit
from ltx.training.heap import memory_kept
from ltx.training.setup import Hooks, Setup
from ltx.training.task import TASKS

SHAPE, BATCH, STEPS = (3, 32, 32), 128, 2
STREAMS = Streams(0, 0, 0, 0, 0)
Side = Callable[[], tuple[float, float, Tensors]]  # seconds of a step, the last loss, and what was trained
SGD = ("optim=sgd", "optim.lr=.1", "optim.momentum=.9", "optim.schedule=constant", f"optim.batch={BATCH}")


def images(n: int = 1024) -> Dataset:
    """Return random pictures of 32x32 pixels in three colours."""
    rng = torch.Generator().manual_seed(0)
    part = Memory(torch.randn(n, *SHAPE, generator=rng), torch.randint(0, 10, (n,), generator=rng))
    return Dataset(part, part, part, 10)


def beginning(spec: Spec) -> tuple[Any, State]:
    """Return a run's network for the pictures, drawn, and a state whose mask keeps half of every matrix."""
    target, arguments = checked("model", spec.config["model"])
    made: Any = target
    init = arguments.pop("init")
    apart = {"channels_last", *pretrained(target)}
    network = made(input_shape=SHAPE, classes=10, width=1.0, **{k: v for k, v in arguments.items() if k not in apart})
    initialise(network, init, STREAMS)
    weights = {name: tensor.clone() for name, tensor in cpu(dict(network.named_parameters())).items()}
    rng = torch.Generator().manual_seed(1)
    mask = {name: torch.rand(weights[name].shape, generator=rng) < 0.5 for name in matrices(network)}
    if spec.method.trains == "scores":
        drawn = {name: torch.randn(weights[name].shape, generator=rng) * weights[name].std() for name in mask}
        return network, State(weights, buffers(network), mask, drawn)
    return network, State(weights, cpu(buffers(network)), mask)


def ours(spec: Spec, data: Dataset) -> Side:
    """Return a function that takes ltx's steps from the beginning."""
    network, state = beginning(spec)
    network = spec.form.network(network)

    def run() -> tuple[float, float, Tensors]:
        hooks = Hooks(lambda rows: None, lambda *_: None, lambda *_: None, 1e9)
        plan = replace(spec.plan(0), restates=False, anchor=None)
        fit = Fit(Setup(network, spec.method, state, plan, spec.optim, data, STREAMS, hooks, spec.form))
        fit.batches = Batches(data, BATCH, STREAMS).stream(0, STEPS)
        network.train()
        optimiser = fit.configure_optimizers()
        began = time.process_time()
        with spec.form.context("cpu"):
            for step in range(STEPS):
                fit.take_step(step, optimiser)
        seconds = (time.process_time() - began) / STEPS
        return seconds, float(fit.watch.waiting[-1][0]), cpu(fit.leaves.scores or fit.leaves.effective())

    return run


def plain(spec: Spec, data: Dataset, density: float | None) -> Side:
    """Return a function that takes the reference's steps from the same beginning."""
    network, state = beginning(spec)
    batches = [Batches(data, BATCH, STREAMS).indices(step, step + 1)[0] for step in range(STEPS)]

    def run() -> tuple[float, float, Tensors]:
        network.load_state_dict(state.weights | state.buffers)
        scores = {name: score.clone().requires_grad_() for name, score in state.scores.items()}
        trained = [*scores.values()] if scores else [*network.parameters()]
        optimiser = torch.optim.SGD(trained, spec.optim.lr, momentum=0.9, weight_decay=spec.optim.weight_decay)
        binary = spec.config["method"]["name"] == "biprop"
        began = time.process_time()
        for chosen in batches:
            x, y = stacked(data.train.x, data.train.y, chosen)
            if density is None:
                loss = masked_step(network, state.mask, optimiser, x, y)
            else:
                loss = score_step(network, scores, density, binary, optimiser, x, y)
        seconds = (time.process_time() - began) / STEPS
        masked = {name: network.get_parameter(name) * keep for name, keep in state.mask.items()}
        return seconds, loss, cpu(scores or masked)

    return run


def compared(name: str, words: list[str], density: float | None, reach: tuple[float, float]) -> Iterator[Line]:
    """Yield the speed of a step in float32 and in bf16-mixed against the reference.

    In the reference's own layout ltx is checked to end where it ends, and with the channels innermost to lose the same:
    sums in other orders let single ReLUs fall on the other side, which moves a gradient by a percent.
    """
    torch.set_num_threads(1)
    data = images()

    def spec(*more: str) -> Spec:
        return Spec.of(composed(*words, *SGD, *more))

    sides = [apart(plain(spec(), data, density)), ours(spec(), data)]
    if "AVX512" in torch.backends.cpu.get_cpu_capability():
        sides.append(ours(spec("trainer.precision=bf16-mixed"), data))
    else:
        print(f"{name}: this processor has no bfloat16, which takes minutes a step; its line is left out")
    alike, theirs = ours(spec("model.channels_last=null"), data)()[2], sides[0]()[2]
    state = beginning(spec())[1]
    begin = state.scores or {matrix: state.weights[matrix] * keep for matrix, keep in state.mask.items()}
    for matrix, end in theirs.items():
        assert (alike[matrix] - end).abs().max() < 0.01 * (end - begin[matrix]).abs().max(), matrix
    losses = [side()[1] for side in sides]
    for loss, most in zip(losses[1:], (1e-3, 0.05), strict=False):
        assert abs(loss - losses[0]) < most * losses[0], losses
    print(f"{name}: losses {', '.join(f'{loss:.5f}' for loss in losses)} of the reference and of ltx")
    with memory_kept():
        reference, *mine = medians(*((lambda side=side: side()[0]) for side in sides))  # type: ignore[misc]
    for which, least, seconds in zip(("fp32", "bf16"), reach, mine, strict=False):
        detail = f"{reference * 1e3:.0f} / {seconds * 1e3:.0f} ms"
        yield Line(f"{name}, plain / ltx {which}", reference / seconds, least, "x", True, detail)


def edge_popup() -> Iterator[Line]:
    """B4: a Conv-4 edge-popup step that keeps half, against sorting scores in NCHW."""
    words = ["method=edge_popup", "method.density=.5", "method.scope=layer", "method.freeze=true", "model=conv4"]
    yield from compared("B4 Conv-4 edge-popup", [*words, "method.scale=false", "method.exclude=[]"], 0.5, (1.7, 3.2))


def biprop() -> Iterator[Line]:
    """B5: a Conv-4 biprop step that keeps a fifth, against sorting scores in NCHW."""
    words = ["method=biprop", "method.density=.2", "method.scope=layer", "method.freeze=true", "model=conv4"]
    yield from compared("B5 Conv-4 biprop", [*words, "method.exclude=[]"], 0.2, (1.7, 3.2))


def resnet() -> Iterator[Line]:
    """B7: a masked ResNet-20 step, against a plain loop in NCHW."""
    yield from compared("B7 ResNet-20 step", ["method=dense", "model=resnet20"], None, (1.25, 2.0))


def level() -> Iterator[Line]:
    """Share of a ResNet-20 level's time that is steps, put together from one step, one evaluation and one short run.

    2,000 steps; 50 validations on the grid; at the end as many of CIFAR-10's training, validation and (twice) test
    pictures as a level is measured on; all else is what `ltx run` takes for a level of one step of a small network.
    """
    torch.set_num_threads(1)
    data = images()
    spec = Spec.of(composed("method=dense", "model=resnet20", *SGD))
    network, _ = beginning(spec)
    spec.form.network(network)
    step = ours(spec, data)

    def evaluated() -> float:
        began = time.process_time()
        evaluate(network, {}, data.val, TASKS["classification"], spec.form)
        return (time.process_time() - began) / len(data.val)

    with tempfile.TemporaryDirectory() as folder:
        short = command(LTX, "run", "method=dense", "width=.1", "optim.steps=1", "seeds=1", f"root={folder}")
        rest = short()
    with memory_kept():
        a, each = medians(lambda: step()[0], evaluated)
    steps = 2000 * a
    grid, end = 50 * grid_size(2000 * BATCH, 5000) * each, (MEASURED + 5_000 + 2 * 10_000) * each
    detail = f"steps {steps:.0f} s, validation {grid:.0f} s, the row {end:.0f} s, else {rest:.0f} s"
    yield Line("level, steps / all", steps / (steps + grid + end + rest), 0.95, "", True, detail)
