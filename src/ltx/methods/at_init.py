"""Tickets chosen before training: random, magnitude, SNIP, GraSP, SynFlow; then trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch.func import functional_call

from ltx.masks import prune
from ltx.methods import Context, Layout, State, dense, masked, nothing_left, without
from ltx.methods.counts import Density, Kept, Scope, check_alive, kept, shapes
from ltx.tensors import Tensors

USUAL_SCOPE: dict[str, Scope] = {"random": "layer", "erk": "erk"}  # the others rank all layers together


@dataclass(frozen=True)
class Method(dense.Method):
    """Score the weights of the untrained network, keep the highest round(density * n), train what is left.

    criterion: `random` keeps the same share of each layer, `erk` shares by Erdos-Renyi-kernel (Evci et al. 2020),
        `magnitude` |w|, `snip` |w g| (Lee et al. 2019), `grasp` w H g (Wang et al. 2020), `synflow` |w dR/dw| of the
        network with |w| on an input of ones (Tanaka et al. 2020); the last four rank all layers together.
    scope: None: as the criterion says above; otherwise what `counts` offers, for any criterion.
    rounds: prune in that many rounds, the density falling geometrically, scores taken anew; SynFlow's paper uses 100.
    batches: training batches that SNIP and GraSP average over.
    temperature: divides the logits before GraSP's loss, 200 in its authors' code; without it (1) GraSP is far worse.
    exclude: layers never pruned.
    allow_dead_layers: go on where the density leaves a layer no weight at all.
    """

    density: Density
    criterion: Literal["random", "erk", "magnitude", "snip", "grasp", "synflow"]
    rounds: Annotated[int, Ge(1)]
    batches: Annotated[int, Ge(1)]
    temperature: Annotated[float, Gt(0)]
    exclude: list[str]
    allow_dead_layers: bool
    scope: Scope | None = None

    def prunable(self, matrices: list[str]) -> list[str]:
        return without(self.exclude, matrices)

    def check(self, layout: Layout, steps: int) -> None:
        if not layout.prunable:
            raise ValueError(nothing_left(self.exclude, "prune"))
        check_alive(self.kept(layout.prunable, self.density), self.density, self.allow_dead_layers)

    def kept(self, tensors: Tensors, density: float) -> Kept:
        """Return how many weights a density keeps."""
        return kept(shapes(tensors), density, self.scope or USUAL_SCOPE.get(self.criterion, "global"))

    def start(self, level: int, context: Context) -> State:
        weights = context.init.weights
        mask = {name: torch.ones_like(weights[name], dtype=torch.bool) for name in context.prunable}
        first = scores = self.rank(context, mask)
        for done in range(1, self.rounds + 1):
            density = self.density ** (done / self.rounds)
            scores = self.rank(context, mask) if done > 1 else first
            mask = prune(scores, mask, self.kept(mask, density))
        return State(weights, context.init.buffers, mask, first)

    def rank(self, context: Context, mask: Tensors) -> Tensors:
        """Return what ranks each weight; higher is kept. Gradients of bfloat16 weights are taken in float32."""
        init = {name: w.float() if w.dtype == torch.bfloat16 else w for name, w in context.init.weights.items()}
        weights = {name: w.clone().requires_grad_(name in mask) for name, w in init.items()}
        if self.criterion in ("random", "erk"):
            return {
                name: torch.from_numpy(
                    context.streams.generator("mask", "at_init", name, *m.shape).random(tuple(m.shape))
                )
                for name, m in mask.items()
            }
        if self.criterion == "magnitude":
            return {name: weights[name].detach().abs() for name in mask}
        if self.criterion == "synflow":
            return synflow(context, mask)
        leaves = [weights[name] for name in mask]
        temperature = self.temperature if self.criterion == "grasp" else 1.0
        losses = [mean_loss(context, masked(weights, mask), i, temperature) for i in range(self.batches)]
        loss = torch.stack(losses).mean()
        if self.criterion == "snip":
            grads = torch.autograd.grad(loss, leaves)
            return {n: (w * g).abs().detach() for n, w, g in zip(mask, leaves, grads, strict=True)}
        grads = torch.autograd.grad(loss, leaves, create_graph=True)
        flow = torch.stack([(g * g.detach()).sum() for g in grads]).sum()
        products = torch.autograd.grad(flow, leaves)  # H g
        return {n: (w * p).detach() for n, w, p in zip(mask, leaves, products, strict=True)}


def mean_loss(context: Context, weights: Tensors, batch: int, temperature: float) -> torch.Tensor:
    """Return the training loss of a batch, statistics of the batch, the outputs divided by the temperature."""
    x, y = context.batch(batch)
    network = context.network.train()
    buffers = {n: b.float() if b.dtype == torch.bfloat16 else b.clone() for n, b in context.init.buffers.items()}
    return context.loss(functional_call(network, (weights, buffers), (x,)) / temperature, y)


def synflow(context: Context, mask: Tensors) -> Tensors:
    """Return |w| dR/d|w| with R the sum of outputs of the network with |w|, in float64, on an input of ones."""
    network = context.network.eval()
    double: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.double
    positive = {name: double(w).abs().requires_grad_(name in mask) for name, w in context.init.weights.items()}
    buffers = {n: double(b) if b.is_floating_point() else b for n, b in context.init.buffers.items()}
    x = torch.ones_like(context.batch(0)[0][:1], dtype=torch.float64)
    total = functional_call(network, (masked(positive, mask), buffers), (x,)).sum()
    leaves = [positive[name] for name in mask]
    grads = torch.autograd.grad(total, leaves)
    return {n: (w * g).abs().detach() for n, w, g in zip(mask, leaves, grads, strict=True)}
