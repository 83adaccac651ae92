"""Measure random masks: how many a second are drawn and scored, and how many swapped. `make bench ARGS=masks`."""

from __future__ import annotations

import math
from collections.abc import Iterator

from bench import Line, medians, timed


def lines() -> Iterator[Line]:
    """Masks of the 64-16-10 network on 300 digits, on one core: a block against one mask at a time, then splitting."""
    import numpy as np
    import torch

    from ltx.analysis.quality import BLOCK, Examples, drawn, quality, quality_of_block
    from ltx.analysis.splitting import advance, begin
    from ltx.analysis.swaps import Draws
    from ltx.data.digits import MEAN, SD
    from ltx.data.digits import examples as digits
    from ltx.streams import Streams

    torch.set_num_threads(1)
    x, y = digits()
    examples = Examples.halves(torch.tensor((x[:300] - MEAN) / SD).float(), torch.tensor(y[:300]))
    streams, rng = Streams(0, 0, 0, 0, 0), torch.Generator().manual_seed(0)
    shapes = {"fc1.weight": (16, 64), "out.weight": (10, 16)}
    weights = {name: torch.randn(shape, generator=rng) * math.sqrt(2 / shape[1]) for name, shape in shapes.items()}
    kept = {name: weight.numel() // 2 for name, weight in weights.items()}
    few = 500
    masks = next(drawn({name: weight.shape for name, weight in weights.items()}, kept, streams, 0, few))
    singles = [{name: own[i : i + 1] for name, own in masks.items()} for i in range(few)]
    results: dict[str, np.ndarray] = {}

    def block() -> None:
        results["block"] = quality_of_block(weights, kept, streams, 0, examples).quality

    def loop() -> None:
        results["loop"] = np.concatenate([quality(weights, mask, examples).quality for mask in singles])

    together, alone = medians(lambda: timed(block), lambda: timed(loop))
    worst = np.abs(results["block"][:few] - results["loop"]).max()
    assert worst < 1e-4, worst
    print(f"masks: a block and single masks have the same qualities within {worst:.0e}")
    rate = BLOCK / together / 1000
    detail = f"{alone / few / (together / BLOCK):.1f} times one mask at a time"
    yield Line("masks drawn and scored a second", rate, 10.0, "k", True, detail)

    def draws(population: str) -> Draws:
        return lambda *purpose: streams.generator("mask", "splitting", population, 0, *purpose)

    first = begin(weights, kept, examples, 128, draws("pilot"), draws("second"))

    def level() -> None:
        advance(first, weights, examples, 0.5, 10, 0, draws("pilot"), draws("second"))

    (seconds,) = medians(lambda: timed(level))
    detail = f"{seconds:.2f} s a level of 2 x 128 masks, 10 sweeps"
    yield Line("swaps tried a second", 2560 / seconds / 1000, 5.0, "k", True, detail)
