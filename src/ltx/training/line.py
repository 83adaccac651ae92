"""Loss and error on the straight line between two states of one network."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ltx.analysis.connectivity import between
from ltx.data.splits import Split
from ltx.tensors import Tensors, buffers
from ltx.training.evaluate import CHUNK, evaluate, reestimate
from ltx.training.form import USUAL, Form
from ltx.training.task import Task

POINTS = 30  # networks that are evaluated side by side
SMALL = 2**15  # numbers of a network, at most


@torch.no_grad()
def along(
    network: nn.Module,
    one: Tensors,
    other: Tensors,
    splits: Sequence[Split],
    task: Task,
    form: Form = USUAL,
    points: int = 30,
    restate: Split | None = None,
) -> list[tuple[list[float], list[float]]]:
    """Return of each split mean losses and errors at equidistant points of the line, both ends included.

    Error is 1 - accuracy. one, other: all parameters and buffers of the ends, as the network sees them. Buffers lie on
    the line as well. With `restate` the BatchNorm statistics of every point are estimated on that split instead. The
    network is left as it was, and as for `evaluate` the caller enters `form.context`. Raises ValueError for fewer than
    two points.
    """
    if points < 2:
        raise ValueError(f"points={points} do not make a line; give at least 2, the ends")
    scratch = copy.deepcopy(network).eval()
    scratch.requires_grad_(False)  # autocast would keep the first point's weights, as bfloat16, for all others
    shares = [i / (points - 1) for i in range(points)]
    if all(torch.equal(tensor, other[name]) for name, tensor in one.items()):
        shares = shares[:1]  # one point tells all, and equal networks side by side may differ by a rounding

    scratch.load_state_dict(one)  # which refuses a state of another network
    held = scratch.state_dict()

    def load(state: Tensors) -> None:
        for name, tensor in held.items():
            tensor.copy_(state[name])  # several times as fast as load_state_dict
        if restate is not None:
            reestimate(scratch, {}, restate, form)

    found: list[list[tuple[float, float]]] = [[] for _ in splits]
    if len(shares) > 1 and stackable(scratch, form):
        for start in range(0, points, POINTS):
            states = stacked(one, other, shares[start : start + POINTS])
            if restate is not None and buffers(scratch):
                for i in range(len(shares[start : start + POINTS])):
                    load({name: tensor[i] for name, tensor in states.items()})
                    for name in buffers(scratch):
                        states[name][i] = held[name]
            for values, split in zip(found, splits, strict=True):
                values += side_by_side(scratch, states, split, task, form)
    else:
        for share in shares:
            load(between(one, other, share))
            for values, split in zip(found, splits, strict=True):
                values.append(evaluate(scratch, {}, split, task, form))
    copies = points // len(shares)
    return [([loss for loss, _ in values] * copies, [1 - score for _, score in values] * copies) for values in found]


def stacked(one: Tensors, other: Tensors, shares: list[float]) -> Tensors:
    """Return the states at some shares of the line as tensors (shares, *shape) by name; see `between`."""
    states = {}
    for name, tensor in one.items():
        if tensor.is_floating_point():
            weight = torch.tensor(shares, dtype=tensor.dtype, device=tensor.device)
            states[name] = tensor.lerp(other[name], weight.reshape(-1, *(1 for _ in tensor.shape)))
        else:
            states[name] = tensor.repeat(len(shares), *(1 for _ in tensor.shape))
    return states


def stackable(network: nn.Module, form: Form) -> bool:
    """Tell whether the points are evaluated side by side: small fully connected networks in float32.

    There calls cost more than products: thirty points of LeNet-300-100 at a quarter of its width take 16 ms in place of
    24 on one core. At full width nothing is gained, and convolutions of many networks at once lose time.
    """
    owners = [layer for layer in network.modules() if any(True for _ in layer.parameters(recurse=False))]
    known = all(isinstance(layer, (nn.Linear, nn.modules.batchnorm._BatchNorm)) for layer in owners)
    return known and form.precision == "32-true" and sum(p.numel() for p in network.parameters()) <= SMALL


def side_by_side(
    network: nn.Module, states: Tensors, split: Split, task: Task, form: Form
) -> list[tuple[float, float]]:
    """Return what `evaluate` returns of each of several states (states, *shape) of a network in eval mode."""

    def outputs(state: Tensors, x: Tensor) -> Tensor:
        return functional_call(network, state, (x,))  # type: ignore[no-any-return]

    count = len(next(iter(states.values())))
    loss = torch.zeros(count, dtype=torch.float64)
    score, targets = torch.zeros(count, dtype=torch.float64), 0
    for x, y in split.chunks(CHUNK):
        for i, found in enumerate(vmap(outputs, in_dims=(0, None))(states, form.inputs(x))):
            loss[i] += task.loss(found, y, reduction="sum").to("cpu")
            score[i] += task.score(found, y).to("cpu")
        targets += y.numel()
    return list(zip((loss / targets).tolist(), (score / targets).tolist(), strict=True))
