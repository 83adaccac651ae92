"""Every method keeps exactly what every allocation says: global, layer by layer, and by Erdos-Renyi-kernel."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers import SMALL, counts, never, spec, trained, whole
from torch import Tensor

from ltx.tensors import under

SCOPES = ("global", "layer", "erk")
METHODS = {
    "imp": ("method.levels=1", "method.fraction=.7"),  # level 1 keeps 0.3
    "edge_popup": ("method.density=.3",),
    "biprop": ("method.density=.3",),
    "gem_miner": ("method.density=.3", "method.freeze_every=3"),
    "at_init": ("method.density=.3", "method.criterion=magnitude"),
}
SHAPES = {"fc1.weight": (12, 64), "fc2.weight": (8, 12), "out.weight": (10, 8)}


def check(kept: dict[str, int], density: float, scope: str) -> None:
    """Hold counts against the definition of their allocation."""
    n = {name: a * b for name, (a, b) in SHAPES.items()}
    if scope == "layer":
        assert kept == {name: round(density * size) for name, size in n.items()}
        return
    assert sum(kept.values()) == round(density * sum(n.values()))
    assert kept != {name: round(density * size) for name, size in n.items()}, "no better than layer by layer"
    if scope == "erk":  # no layer is full here: the density is in proportion to (a + b) / (a b)
        factor = density * sum(n.values()) / sum(a + b for a, b in SHAPES.values())
        assert all(abs(kept[name] - factor * (a + b)) <= 1.5 for name, (a, b) in SHAPES.items())


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", METHODS)
def test_a_trained_ticket_keeps_exactly_what_its_allocation_says(name: str, scope: str, tmp_path: Path) -> None:
    found = spec(*SMALL, f"method={name}", *METHODS[name], f"method.scope={scope}", "method.exclude=[]")
    mask: dict[str, Tensor] = under("mask", trained(found, tmp_path)[-1][0])
    kept = counts(mask)
    assert {n: tuple(m.shape) for n, m in mask.items()} == SHAPES
    if name == "gem_miner":  # its rounding may drop more: what is not frozen off is exact
        ones = whole(mask)
        scores = {n: torch.rand(m.shape, generator=torch.Generator().manual_seed(0)) for n, m in mask.items()}
        open_ = counts(found.method.between({}, scores, ones, 1.0, never)[2])
        check(open_, 0.3, scope)
        assert sum(kept.values()) <= sum(open_.values()) and (
            scope == "global" or all(kept[n] <= open_[n] for n in kept)
        )
        return
    check(kept, 0.3, scope)


def test_imp_by_erdos_renyi_kernel_is_nested_and_exact_at_every_level(tmp_path: Path) -> None:
    words = ("method=imp", "method.scope=erk", "method.levels=6", "method.exclude=[]", "optim.steps=2")
    masks = [under("mask", tensors) for tensors, _ in trained(spec(*SMALL, *words), tmp_path)]
    assert len(masks) == 7 and counts(masks[0]) == {name: a * b for name, (a, b) in SHAPES.items()}
    for before, after in pairwise(masks):
        assert all(not (after[name] & ~before[name]).any() for name in after)
    for level, mask in enumerate(masks):
        assert sum(counts(mask).values()) == round(944 * 0.8**level)
        if 0.8**level < 0.5:
            check(counts(mask), 0.8**level, "erk")
