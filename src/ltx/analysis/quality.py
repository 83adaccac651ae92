"""The quality of many random masks of one bias-free ReLU network, batched over masks.

The quality of a mask is minus the cross-entropy after one temperature per mask has been fitted on other examples.
Accuracy has ties and a bound, and the raw cross-entropy would measure the scale of the logits alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ltx.streams import Streams
from ltx.tensors import Tensors

BLOCK = 10_000  # masks that are drawn from one generator
NEWTON = 8  # steps to a temperature; three are visibly off for rare masks
SETTLED = 1e-10  # nats, twice what a step promises to gain: from there on rounding, and no longer the slope, leads
# Bytes of one layer's activations or weights, for all masks of a chunk: what a core's caches hold, and elsewhere enough
# to keep an accelerator busy.
MEMORY, ELSEWHERE = 2**21, 2**30


@dataclass(frozen=True)
class Examples:
    """Examples x (N, inputs) in float32 with their labels y (N): the first `fitted` are for temperatures alone."""

    x: Tensor
    y: Tensor
    fitted: int

    def to(self, device: str) -> Examples:
        """Return the examples on a device."""
        return Examples(self.x.to(device), self.y.to(device), self.fitted)

    @classmethod
    def halves(cls, x: Tensor, y: Tensor) -> Examples:
        """Flatten each example, and give the first half of them to the temperatures and the rest to the score."""
        return cls(x.flatten(1).float(), y, len(y) // 2)


@dataclass(frozen=True)
class Quality:
    """What each of many masks is worth, an array (masks) each.

    quality: minus the mean cross-entropy, in nats, of the examples that are scored. inverse_temperature: what the
    logits are multiplied by; zero where the fitted examples are best told nothing, and then the quality is
    exactly -log(classes), an atom of ties. dead: the logits are the same for every example.
    """

    quality: np.ndarray
    inverse_temperature: np.ndarray
    dead: np.ndarray

    @property
    def dead_share(self) -> float:
        """Return the share of masks whose output is constant."""
        return float(self.dead.mean())


def drawn(
    shapes: Mapping[str, torch.Size],
    kept: Mapping[str, int],
    streams: Streams,
    block: int,
    at_once: int = BLOCK,
    device: torch.device | str = "cpu",
) -> Iterator[Tensors]:
    """Yield the masks of a block, bool (at_once, *shape) by name, with exactly kept[name] weights kept in each layer.

    Every subset of that size is equally likely: the places of the smallest of as many random numbers as the layer has
    weights. A function of the mask stream, the block's number, the name and shape alone; `at_once` only cuts the block
    into pieces, and `device` is where they are wanted. Raises ValueError for a count that a layer does not have.
    """
    for name, shape in shapes.items():
        if not 0 <= kept[name] <= shape.numel():
            raise ValueError(f"cannot keep {kept[name]} of {shape.numel()} weights of {name}")
    rngs = {name: streams.generator("mask", "random masks", block, name, *shapes[name]) for name in shapes}
    for start in range(0, BLOCK, at_once):
        size = min(at_once, BLOCK - start)
        yield {
            name: subsets(size, shape.numel(), kept[name], rngs[name], device).reshape(size, *shape)
            for name, shape in shapes.items()
        }


def subsets(size: int, n: int, k: int, rng: np.random.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Return `size` random subsets of exactly k of n, bool (size, n), the same on every device."""
    if k in (0, n):
        return torch.full((size, n), k == n, device=device)
    numbers = rng.random((size, n))
    if torch.device(device).type == "cpu":
        chosen = np.zeros((size, n), dtype=bool)
        np.put_along_axis(chosen, np.argpartition(numbers, k, axis=1)[:, :k], True, axis=1)
        return torch.from_numpy(chosen)
    places = torch.from_numpy(numbers).to(device).topk(k, dim=1, largest=False, sorted=False).indices
    return torch.zeros(size, n, dtype=torch.bool, device=device).scatter_(1, places, True)


def quality_of_block(
    weights: Mapping[str, Tensor],
    kept: Mapping[str, int],
    streams: Streams,
    block: int,
    examples: Examples,
    at_once: int | None = None,
) -> Quality:
    """Return the quality of the 10,000 random masks of a block; see `drawn` and `quality`."""
    shapes = {name: weight.shape for name, weight in weights.items()}
    at_once = at_once or fitting(weights, examples)
    blocks = drawn(shapes, kept, streams, block, at_once, examples.x.device)
    return joined([quality(weights, mask, examples, at_once) for mask in blocks])


@torch.no_grad()
def quality(
    weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], examples: Examples, at_once: int | None = None
) -> Quality:
    """Return the quality of masks, bool (masks, out, in) by name, of one network.

    weights: the matrices (out, in) from the first layer to the last, with ReLU between them and no bias, on the device
    of masks and examples; or (masks, out, in), other ones for each mask. at_once: masks of a chunk, as many as memory
    bounds unless given. Raises ValueError for weights that do not follow on one another.
    """
    check_shapes(weights, masks, examples)
    at_once = at_once or fitting(weights, examples)
    count = len(next(iter(masks.values())))
    parts = []
    for start in range(0, count, at_once):
        chunk = {name: mask[start : start + at_once].to(examples.x.device) for name, mask in masks.items()}
        own = {name: w if w.ndim == 2 else w[start : start + at_once] for name, w in weights.items()}
        parts.append(scored(logits(own, chunk, examples.x), examples))
    return joined(parts)


def check_shapes(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], examples: Examples) -> None:
    """Raise ValueError where a layer does not take what the one before it gives, or a mask has another shape."""
    units = examples.x.shape[1]
    for name, weight in weights.items():
        shape = weight.shape[-2:]
        if weight.ndim not in (2, 3) or shape[1] != units:
            raise ValueError(f"{name} is {tuple(weight.shape)}, and {units} numbers come in")
        if masks[name].shape[1:] != shape or (weight.ndim == 3 and len(weight) != len(masks[name])):
            raise ValueError(f"the masks of {name} are {tuple(masks[name].shape[1:])}, not {tuple(weight.shape)}")
        units = shape[0]
    if not 0 < examples.fitted < len(examples.y):
        raise ValueError(f"{examples.fitted} of {len(examples.y)} examples for the temperature: both parts need some")


def fitting(weights: Mapping[str, Tensor], examples: Examples) -> int:
    """Return how many masks at once have activations and weights within MEMORY in every layer."""
    shapes = [weight.shape[-2:] for weight in weights.values()]
    largest = max(max(shape[0] * len(examples.y), shape.numel()) for shape in shapes)
    memory = MEMORY if examples.x.device.type == "cpu" else ELSEWHERE
    return max(1, memory // (4 * largest))


def logits(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return the logits (masks, classes, N) of examples x (N, inputs) under each mask.

    Each layer's weights are divided by the square root of the density its mask has. A layer of which nothing is kept
    gives zeros.
    """
    hidden = x.T
    for place, (name, weight) in enumerate(weights.items()):
        mask = masks[name]
        count = mask.flatten(1).sum(1).clamp(min=1)
        scale = (weight.shape[-2:].numel() / count).sqrt().float()
        effective = mask * weight.float() * scale[:, None, None]
        if place:
            hidden = torch.bmm(effective, hidden.relu_())
        else:  # all masks see the same examples, so that the first layer is one product
            hidden = (effective.flatten(0, 1) @ hidden).unflatten(0, mask.shape[:2])
    return hidden


def scored(z: Tensor, examples: Examples) -> Quality:
    """Fit a temperature to the first examples of logits z (masks, classes, N), and score the rest with it."""
    cut = examples.fitted
    dead = (z.amax(2) == z.amin(2)).all(1)
    beta = inverse_temperature(z[..., :cut], examples.y[:cut])
    found = score(z[..., cut:], examples.y[cut:], beta)
    return Quality(found.cpu().numpy(), beta.cpu().numpy(), dead.cpu().numpy())


def score(z: Tensor, y: Tensor, beta: Tensor) -> Tensor:
    """Return minus the mean cross-entropy (masks), float64, of logits z (masks, classes, N) times beta (masks)."""
    found = torch.full_like(beta, -math.log(z.shape[1]))
    told = torch.nonzero(beta)[:, 0]
    if len(told):
        z = (z if len(told) == len(z) else z[told]) * beta[told, None, None].float()
        right = z[:, y, torch.arange(len(y), device=y.device)]
        found[told] = (right - z.logsumexp(1)).mean(1, dtype=torch.float64)
    return found


def inverse_temperature(z: Tensor, y: Tensor, start: Tensor | None = None) -> Tensor:
    """Return the non-negative number (masks), float64, by which logits z (masks, classes, N) tell the labels y best.

    The cross-entropy is convex in it. Where it does not fall at zero, zero is best. Elsewhere Newton's steps go from
    zero, and halve the interval that holds the best number where a step would leave it. start (masks): numbers that are
    near the best, from which fewer steps lead to the same ones.
    """
    right = z[:, y, torch.arange(len(y), device=y.device)]
    slope = (z.mean(1) - right).mean(1, dtype=torch.float64)
    result = torch.zeros_like(slope)
    told = torch.nonzero(slope < 0)[:, 0]
    if len(told) == 0:
        return result
    top = z[told].amax(1, keepdim=True)
    z, right = z[told] - top, right[told] - top[:, 0]  # at most 0, so that no exponential overflows
    low = result[told]
    beta, high = (low if start is None else start[told]), torch.full_like(low, math.inf)
    for _ in range(NEWTON if start is None else 2 * NEWTON):
        e = (z * beta[:, None, None].float()).exp_()
        weighted = z * e
        total, first = e.sum(1), weighted.sum(1)
        mean = first / total
        spread = (weighted * z).sum(1) / total - mean**2
        slope = (mean - right).mean(1, dtype=torch.float64)
        low, high = torch.where(slope < 0, beta, low), torch.where(slope < 0, high, beta)
        curvature = spread.mean(1, dtype=torch.float64)
        stepped = beta - slope / curvature
        inside, settled = (stepped > low) & (stepped < high), slope**2 <= SETTLED * curvature
        middle = torch.where(high.isinf(), beta, (low + high) / 2)
        # At the best number rounding may put a step outside: halving the interval would lead away from it.
        beta = torch.where(inside | settled, stepped, middle)
        if start is not None and bool(settled.all()):
            break
    result[told] = beta
    return result


def joined(parts: list[Quality]) -> Quality:
    """Return the qualities of several chunks of masks as those of one."""
    return Quality(
        np.concatenate([part.quality for part in parts]),
        np.concatenate([part.inverse_temperature for part in parts]),
        np.concatenate([part.dead for part in parts]),
    )
