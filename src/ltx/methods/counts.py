"""How many weights each layer keeps: one question, answered exactly for every method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Le

from ltx.methods import layer

Density = Annotated[float, Gt(0), Le(1)]
Scope = Literal["global", "layer", "erk"]
Shapes = Mapping[str, torch.Size]
Kept = int | dict[str, int]  # in all together, or by parameter


def shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    """Return the shape of every tensor by name."""
    return {name: tensor.shape for name, tensor in tensors.items()}


def kept(at: Shapes, density: float, scope: Scope) -> Kept:
    """Return how many weights a density keeps.

    `global` counts all layers together, `layer` keeps the same share of each, `erk` shares by their shapes.
    """
    sizes = {name: shape.numel() for name, shape in at.items()}
    if scope == "erk":
        return erk(at, density)
    if scope == "global":
        return round(density * sum(sizes.values()))
    return {name: round(density * n) for name, n in sizes.items()}


def total(count: Kept) -> int:
    """Return how many weights are kept in all."""
    return count if isinstance(count, int) else sum(count.values())


def emptied(count: Kept) -> list[str]:
    """Name the layers that keep nothing; `all` where nothing at all is kept."""
    if isinstance(count, int):
        return [] if count else ["all"]
    return [layer(name) for name, k in count.items() if not k]


def check_alive(count: Kept, density: float, allow_dead_layers: bool) -> None:
    """Raise ValueError where a density leaves a layer no weight, unless that is allowed."""
    dead = emptied(count)
    if dead and not allow_dead_layers:
        raise ValueError(
            f"method.density={density} keeps no weight of layer {', '.join(dead)}; raise it, exclude the "
            "layer, or go on with method.allow_dead_layers=true"
        )


def erk(at: Shapes, density: float) -> dict[str, int]:
    """Return counts by Erdos-Renyi-kernel (Evci et al. 2020), exact in all.

    A layer's density is proportional to (sum of its dimensions) / (their product), at most 1.
    """
    sizes = {name: shape.numel() for name, shape in at.items()}
    share = {name: sum(shape) for name, shape in at.items()}  # a layer's density times its size, up to one factor
    full: set[str] = set()
    while True:
        rest = density * sum(sizes.values()) - sum(sizes[n] for n in full)
        scale = rest / sum(share[n] for n in share if n not in full) if len(full) < len(share) else 0.0
        over = {n for n in share if n not in full and scale * share[n] > sizes[n]}
        if not over:
            count = {n: sizes[n] if n in full else round(scale * share[n]) for n in share}
            # takes what rounding each layer left over; the name decides, for a file may give layers in another order
            largest = max(sizes, key=lambda n: (sizes[n] - count[n], n))
            left = round(density * sum(sizes.values())) - sum(count.values())
            return count | {largest: max(0, count[largest] + left)}
        full |= over
