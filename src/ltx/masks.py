"""Masks as pure functions with exact counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltx.tensors import Tensors, laid_out


class NotANumber(ValueError):
    """A score that is not a number: the training that made it has diverged."""


def keep_top(score: Tensor, k: int) -> Tensor:
    """Return the bool mask, shaped as `score`, of exactly the k largest scores; ties go to the lower index.

    The index counts through the shape, whatever the memory layout of `score`, which the mask takes over.
    Selection, not sorting: `kth_largest` on the CPU, torch's kthvalue on a GPU.
    Raises ValueError for k outside 0..n, NotANumber for a score that is none.
    """
    flat = score.detach().reshape(-1)
    n = flat.numel()
    if not 0 <= k <= n:
        raise ValueError(f"cannot keep {k} of {n} weights")
    values = (flat.float() if flat.dtype == torch.bfloat16 else flat).numpy() if flat.device.type == "cpu" else None
    if (
        bool(torch.isnan(flat).any()) if values is None else np.isnan(values).any()
    ):  # NumPy's isnan is 20 times as fast as torch's
        raise NotANumber("a score is not a number")
    if k in (0, n):
        return torch.full_like(score, k > 0, dtype=torch.bool)
    if values is not None:
        smallest = kth_largest(values, k)
        mask = values > smallest
        mask[np.flatnonzero(values == smallest)[: k - np.count_nonzero(mask)]] = True
        return laid_out(torch.from_numpy(mask).reshape(score.shape), score)
    cut = torch.kthvalue(flat, n - k + 1).values
    above, tied = flat > cut, flat == cut
    return laid_out((above | (tied & (tied.cumsum(0) <= k - above.sum()))).reshape(score.shape), score)


def kth_largest(values: np.ndarray, k: int) -> float:
    """Return the k-th largest of n numbers, 1 <= k <= n.

    Every n^(1/3)-th of them brackets it, and only what lies in the bracket is partitioned (Floyd & Rivest 1975): four
    times as fast as partitioning all. Where the sample misleads, all are.
    """
    n, at = len(values), len(values) - k
    sample = values[:: round(n ** (1 / 3)) | 1]  # an odd stride runs across rows of even length
    m = len(sample)
    place, spread = at * m // n, 2 * math.isqrt(m)  # at least 4 standard deviations of the rank in a random sample
    lowest, highest = max(place - spread, 0), min(place + spread, m - 1)
    ordered = np.partition(sample, (lowest, highest))
    low = ordered[lowest] if lowest > 0 else -np.inf
    high = ordered[highest] if highest < m - 1 else np.inf
    below = int(np.count_nonzero(values < low))
    inner = values[(values >= low) & (values <= high)]
    if not below <= at < below + len(inner):
        below, inner = 0, values
    return float(np.partition(inner, at - below)[at - below])


class _Top(torch.autograd.Function):
    """`keep_top` as 0 and 1, and one network at a time under vmap: each keeps exactly its own k."""

    @staticmethod
    def forward(score: Tensor, k: int) -> Tensor:
        return keep_top(score, k).to(score.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        return None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], score: Tensor, k: int) -> tuple[Tensor, int]:
        return torch.stack([keep_top(s, k).to(score.dtype) for s in score.movedim(in_dims[0], 0)]), 0


def top(scores: Mapping[str, Tensor], kept: int | Mapping[str, int]) -> Tensors:
    """Return 0/1 masks of the `kept` largest scores in all (global scope) or kept[name] in each layer; no gradient."""
    detached = {name: score.detach() for name, score in scores.items()}
    if isinstance(kept, Mapping):
        return {name: _Top.apply(score, kept[name]) for name, score in detached.items()}
    flat = _Top.apply(torch.cat([score.reshape(-1) for score in detached.values()]), kept)
    parts = flat.split([score.numel() for score in detached.values()])
    return {
        name: laid_out(part.reshape(score.shape), score)
        for (name, score), part in zip(detached.items(), parts, strict=True)
    }


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Return the value of `hard` with the gradient of `soft`.

    The parentheses matter: soft - soft is exactly 0, while (hard + soft) - soft is off by a rounding.
    """
    return hard.detach() + (soft - soft.detach())


def prune(scores: Mapping[str, Tensor], mask: Mapping[str, Tensor], kept: int | Mapping[str, int]) -> Tensors:
    """Keep the highest-scoring survivors of `mask`: `kept` in all (global scope) or kept[name] in each layer.

    Pruned weights never return: the result is nested in `mask`. Ties go to the earlier layer and the lower index.
    Raises ValueError where more are to be kept than survive.
    """
    alive = {name: torch.where(mask[name], score, -torch.inf) for name, score in scores.items()}
    if isinstance(kept, Mapping):
        chosen = {name: keep_top(score, kept[name]) for name, score in alive.items()}
    else:
        flat = keep_top(torch.cat([score.reshape(-1) for score in alive.values()]), kept)
        parts = flat.split([score.numel() for score in alive.values()])
        chosen = {name: part.reshape(mask[name].shape) for name, part in zip(alive, parts, strict=True)}
    if any(bool((chosen[name] & ~mask[name]).any()) for name in chosen):
        raise ValueError(f"cannot keep {kept} weights: fewer survive")
    return chosen


def shuffle(mask: Mapping[str, Tensor], rng: Callable[[str], np.random.Generator]) -> Tensors:
    """Permute each layer's mask within the layer; `rng(name)` gives the layer's generator. Counts stay."""
    order = {name: torch.from_numpy(rng(name).permutation(m.numel())) for name, m in mask.items()}
    return {name: m.reshape(-1)[order[name]].reshape(m.shape) for name, m in mask.items()}


def count(mask: Mapping[str, Tensor]) -> int:
    """Count the kept weights."""
    return sum(int(m.sum()) for m in mask.values())
