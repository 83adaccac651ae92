"""Seeds of a run trained side by side: one step of their stacked weights is a step of each of them.

A step of a small network is bound by what surrounds its arithmetic: a GPU by launching kernels, a CPU by Python. Side
by side that is spent once for all seeds. Each has the batches, masks and records that it has alone, and its numbers are
the same within rounding: products of stacked matrices are summed in another order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltx.data.batches import Batches
from ltx.data.splits import Dataset
from ltx.tensors import Tensors, buffers, call
from ltx.training.evaluate import CHUNK
from ltx.training.fit import Fit, take_steps, train, trained
from ltx.training.leaves import Leaves
from ltx.training.optim import move
from ltx.training.setup import Resume, Setup, Trained
from ltx.training.watch import Watch


def train_all(
    setups: Sequence[Setup], device: str, options: dict[str, Any], resumes: Sequence[Resume | None]
) -> list[Trained | BaseException]:
    """Train one level of several seeds, side by side where they can be; see `fit.train`.

    Returns what each leaves, or what it raised. All setups are of one plan.
    """
    found: dict[int, Trained | BaseException] = {}
    at: dict[int, list[int]] = {}
    for i, (setup, resume) in enumerate(zip(setups, resumes, strict=True)):
        if stackable(setup):
            at.setdefault(setup.plan.first if resume is None else resume[1]["step"], []).append(i)
    for alike in at.values():
        if len(alike) > 1:
            ends = train_stack([setups[i] for i in alike], device, options, [resumes[i] for i in alike])
            found |= dict(zip(alike, ends, strict=True))
    for i, (setup, resume) in enumerate(zip(setups, resumes, strict=True)):
        if i not in found:
            try:
                found[i] = train(setup, device, options, resume)
            except (Exception, SystemExit) as error:  # whatever it is: the others go on, and the caller raises it
                found[i] = error
    return [found[i] for i in range(len(setups))]


def stackable(setup: Setup) -> bool:
    """Tell whether a level trains linear layers and nothing else, in steps that are all the same."""
    held = {id(p) for layer in setup.network.modules() if type(layer) is nn.Linear for p in layer.parameters()}
    linear = all(id(parameter) in held for parameter in setup.network.parameters())
    return linear and not buffers(setup.network) and setup.simple and setup.plan.first < setup.plan.last


def train_stack(
    setups: Sequence[Setup], device: str, options: dict[str, Any], resumes: Sequence[Resume | None]
) -> list[Trained | Exception]:
    """Train one level of several seeds that are at the same step, as one."""
    each = []
    for setup, resume in zip(setups, resumes, strict=True):
        each.append(Fit(setup))
        if resume is not None:
            each[-1].restore(*resume)
    together = SideBySide(setups[0], each)
    with contextlib.suppress(AllFailed):
        take_steps(together, device, options, setups[0].form.precision)
    return [together.failed.get(i) or trained(fit) for i, fit in enumerate(each)]


class AllFailed(Exception):
    """None of the replicas can go on."""


class Matrices(Tensor):
    """The weights (replicas, out, in) of a linear layer of each replica, in place of the layer's own.

    `F.linear` gives each replica's part of a batch to its own; nothing else can be done with them.
    """

    stacked: Tensor

    @staticmethod
    def of(stacked: Tensor) -> Matrices:
        """Return the stand-in for stacked weights, which has their values also when these have changed."""
        matrices = stacked.detach().as_subclass(Matrices)
        matrices.stacked = stacked
        return matrices

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is not F.linear:
            return super().__torch_function__(function, types, args, kwargs or {})
        x, weights, bias = args
        transposed = weights.stacked.transpose(1, 2)
        each = x.reshape(len(transposed), -1, x.shape[-1])  # the replicas' examples follow each other along the batch
        out = torch.bmm(each, transposed) if bias is None else torch.baddbmm(bias.unsqueeze(1), each, transposed)
        return out.reshape(*x.shape[:-1], -1)


class Stack(nn.Module):
    """The leaves of several replicas, each parameter as one tensor (replicas, *shape); those of each are views of it.

    Calling it takes the replicas' examples one after another along the batch, and gives their outputs likewise.
    """

    def __init__(self, each: Sequence[Leaves]):
        super().__init__()
        self.each, self.form, self.names = list(each), each[0].form, list(each[0].weights)
        stacks = [torch.stack([leaves.weights[name].detach() for leaves in each]) for name in self.names]
        self.trained = nn.ParameterList(nn.Parameter(tensor) for tensor in stacks)

    def place(self, device: torch.device) -> None:
        """Gather everything again after the module was moved to `device`."""
        self.weights: Tensors = dict(zip(self.names, self.trained, strict=True))
        for i, leaves in enumerate(self.each):
            for name, parameter in leaves.network.named_parameters():
                parameter.data = self.weights[name].data[i]
            leaves.place(device)
        self.seen = {name: Matrices.of(t) if t.ndim == 3 else t for name, t in self.weights.items()}
        self.pruned = sorted({name for leaves in self.each for name in leaves.pruned})
        self.gates = {name: torch.stack([leaves.gate[name] for leaves in self.each]) for name in self.pruned}
        self.fixed = all(leaves.fixed for leaves in self.each)

    def forward(self, x: Tensor) -> Tensor:
        masked = {n: Matrices.of(self.weights[n] * self.gates[n]) for n in (() if self.fixed else self.pruned)}
        return self.form.outputs(call(self.each[0].network, self.seen | masked, self.form.inputs(x)))

    def mask_gradients(self) -> None:
        """Set the gradients of pruned weights to zero, where the effective weights have not done so."""
        for name in self.pruned if self.fixed else ():
            if (gradient := self.weights[name].grad) is not None:
                gradient.mul_(self.gates[name])

    def clip(self, most: float) -> None:
        """Scale the gradients of each replica down to a norm, as torch's `clip_grad_norm_` does those of one."""
        gradients = [parameter.grad for parameter in self.trained if parameter.grad is not None]
        norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
        factors = (most / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))


class Orders(Batches):
    """The batches of several replicas, each in its own order, one after another along one batch."""

    def __init__(self, data: Dataset, each: Sequence[Batches]):
        super().__init__(data, each[0].batch, each[0].streams, each[0].device)
        self.each = each

    def indices(self, start: int, stop: int) -> Tensor:
        return torch.cat([batches.indices(start, stop) for batches in self.each], dim=1)


class Watches(Watch):
    """The watches of several replicas: each is given its part of what their steps leave."""

    def __init__(self, together: SideBySide):
        first = together.each[0].watch
        super().__init__(first.plan, first.task, first.leaves, first.val, None)
        self.together = together

    def sum(self, losses: Tensor, outputs: Tensor, targets: Tensor, step: int) -> None:
        shape = len(losses), len(self.together.each), -1
        outputs, targets = outputs.reshape(*shape, *outputs.shape[2:]), targets.reshape(*shape, *targets.shape[2:])
        self.together.for_each(lambda i, fit: fit.watch.sum(losses[:, i], outputs[:, i], targets[:, i], step))

    @torch.no_grad()
    def looks(self) -> list[tuple[float, float]]:
        """Return each replica's validation loss and accuracy."""
        n, targets = len(self.together.each), 0
        losses, scores = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        for x, y in self.val.chunks(max(32, CHUNK // n)):
            outputs = self.together.stack(x.expand(n, *x.shape).flatten(0, 1)).float()
            each = y.expand(n, *y.shape).flatten(0, 1)
            losses += self.task.loss(outputs, each, reduction="none").reshape(n, -1).sum(1).cpu()
            parts = zip(outputs.chunk(n), each.chunk(n), strict=True)
            scores += torch.stack([self.task.score(*part).double() for part in parts]).cpu()
            targets += y.numel()
        return [*zip((losses / targets).tolist(), (scores / targets).tolist(), strict=True)]


class SideBySide(Fit):
    """The levels of several replicas under way, which are at the same step; each has its own Fit for what is its own.

    What one of them raises is kept in `failed` and ends that one alone.
    """

    def __init__(self, setup: Setup, each: Sequence[Fit]):
        super().__init__(setup, leaves=each[0].leaves)
        self.each, self.failed = list(each), dict[int, Exception]()
        self.leaves = self.stack = Stack([fit.leaves for fit in each])
        self.watch = self.watches = Watches(self)
        self.hooks = replace(setup.hooks, check=lambda: self.for_each(lambda i, fit: fit.hooks.check()))
        self.step = each[0].step
        self.moments = {name: stacked([fit.moments[name] for fit in each]) for name in each[0].moments}
        for fit in each:
            fit.side_by_side = len(each)

    def for_each(self, do: Callable[[int, Fit], object]) -> None:
        """Do something with each replica that has not failed; what it raises is that one's failure."""
        for i, fit in enumerate(self.each):
            if i not in self.failed:
                try:
                    do(i, fit)
                except Exception as error:  # whatever it is: the others go on, and `train_all` returns it
                    self.failed[i] = error
        if len(self.failed) == len(self.each):
            raise AllFailed

    def all_batches(self) -> Batches:
        data = replace(self.data, train=self.data.train.to(self.device))  # once, not by each
        return Orders(data, [Batches(data, self.recipe.batch, fit.streams, self.device) for fit in self.each])

    def update(
        self, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor, done: float = 1.0, noise: Tensors | None = None
    ) -> tuple[Tensor, Tensor]:
        """Move all replicas by the gradients of their batches; return their losses (replicas) and outputs."""
        for parameter in self.stack.trained:
            parameter.grad = None
        outputs = self.stack(x)
        each = self.task.loss(outputs, y, self.recipe.label_smoothing, "none")
        losses = each.reshape(len(self.each), -1).mean(1)
        losses.sum().backward()
        self.stack.mask_gradients()
        if self.recipe.clip is not None:
            self.stack.clip(self.recipe.clip)
        move(optimiser)
        return losses, outputs

    def after_step(self, optimiser: torch.optim.Optimizer) -> None:
        for fit in self.each:
            fit.__dict__["step"] = self.step
        super().after_step(optimiser)

    def record(self, looked: tuple[float, float] | None = None) -> None:
        self.watch.flush(self.step)
        looks = self.watches.looks()
        self.for_each(lambda i, fit: fit.record(looks[i]))

    def keep_anchor(self) -> None:
        self.for_each(lambda i, fit: fit.keep_anchor())

    def save(self, moments: Tensors) -> None:
        self.for_each(lambda i, fit: fit.save({name: t[i] if t.ndim else t for name, t in moments.items()}))


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Return one tensor of all; of numbers, which are the steps of optimisers, the first."""
    return torch.stack([*tensors]) if tensors[0].ndim else tensors[0]
