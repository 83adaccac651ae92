"""How rare good random tickets are: two populations of masks that climb together over ever higher thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt

from ltx.analysis.splitting import Level, Splitting, advance, begin
from ltx.analysis.swaps import Draws, Population, quality_elsewhere
from ltx.methods import Context, Layout, State, ticket_sample
from ltx.methods.ticket_sample import SCORED, examples
from ltx.tensors import Tensors, under

POPULATIONS = ("pilot", "second")


@dataclass(frozen=True)
class Method(ticket_sample.Tickets):
    """Estimate log10 of P(quality >= threshold) for a random mask, as far down as there are levels.

    A level raises the threshold once and moves both populations by swaps. The masks are those of ticket_sample, and
    their quality is the same. The level's mask is the best so far. Seeds are repeats: with `streams.init` pinned they
    are of one network.
    density: kept, of each layer; the weights are multiplied by 1/sqrt(density), which keeps their variance.
    levels: the last level; each lowers P to about `keep` of it.
    masks: in each of the two populations.
    keep: the share of the masks that survives a level.
    sweeps: swaps that are proposed to each mask on a level.
    examples: how many are scored at most; null for 2,000.
    exclude: layers kept whole, at their random weights.
    allow_dead_layers: go on where the density rounds a layer to no weight at all.
    """

    masks: Annotated[int, Ge(8)]
    keep: Annotated[float, Gt(0), Lt(1)]
    sweeps: Annotated[int, Ge(1)]

    def check(self, layout: Layout, steps: int) -> None:
        super().check(layout, steps)
        if not 1 <= math.floor(self.keep * self.masks) < self.masks:
            raise ValueError(
                f"method.keep={self.keep} of method.masks={self.masks} lets no mask survive a level; "
                f"{1 / self.masks:.3g} lets one"
            )
        kept = self.kept(layout.prunable)
        if not any(0 < k < layout.prunable[name].numel() for name, k in kept.items()):
            raise ValueError(
                f"method.density={self.density} keeps all weights or none of every layer that is masked, so that there "
                "is a single mask; 0.5 leaves the most masks"
            )

    def work(self, level: int) -> int:
        """Return how many masks a level scores, in both populations."""
        return 2 * self.masks * self.sweeps

    def advance(
        self, level: int, previous: State, context: Context
    ) -> tuple[State, Mapping[str, float | int | str | None]]:
        weights, seen = context.init.weights, examples(context, self.examples or SCORED)

        def draws(population: str) -> Draws:
            return lambda *purpose: context.streams.generator("mask", "splitting", population, level, *purpose)

        pilot, second = map(draws, POPULATIONS)
        if level:
            state = unpacked(previous.sample)
        else:
            state = begin(weights, self.kept_of_all(weights, context.prunable), seen, self.masks, pilot, second)
        state, found = advance(state, weights, seen, self.keep, self.sweeps, level, pilot, second)
        best, mask = found.best, {name: found.mask[name] for name in context.prunable}
        if level and float(previous.sample["best"]) >= best:
            best, mask = float(previous.sample["best"]), {name: previous.mask[name] for name in context.prunable}
        x, y = context.examples("test", SCORED)
        on_test = quality_elsewhere(weights, state.second, x.flatten(1).float(), y)
        columns = columns_of(found, self.masks) | {"best": best, "test_quality": mean_of(on_test)}
        return self.end(weights, mask, previous, packed(state, best)), columns


def columns_of(found: Level, masks: int) -> dict[str, float | int | str | None]:
    """Return what a row says of a level.

    log10_p estimates log10 P(quality >= threshold); where the second population has died out the estimate of P is zero,
    which has no logarithm: the column is null and `note` says so.
    """
    alive = math.isfinite(found.log10_p)
    gone = f"none of the {masks} masks that are counted reached this or an earlier threshold: P is estimated as 0"
    return {
        "threshold": found.threshold,
        "log10_p": found.log10_p if alive else None,
        "log10_p_sd": found.sd if alive else None,
        "pilot_log10_p": found.pilot_log10_p,
        "acceptance": found.acceptance if alive else None,
        "mixing": found.mixing if alive else None,
        "swapped": found.swapped,
        "roots": found.roots,
        "note": None if alive else gone,
    }


def mean_of(values: np.ndarray) -> float | None:
    """Return the mean, or None of nothing."""
    return float(values.mean()) if len(values) else None


def packed(state: Splitting, best: float) -> Tensors:
    """Return what the next level needs, as tensors by name."""
    tensors = {
        "best": number(best),
        "log10_p": number(state.log10_p),
        "pilot_log10_p": number(state.pilot_log10_p),
        "variance": number(state.variance),
    }
    tensors |= {f"swapped/{name}": torch.tensor([count]) for name, count in state.swapped.items()}
    for name, population in zip(POPULATIONS, (state.pilot, state.second), strict=True):
        tensors |= {f"{name}/masks/{layer}": torch.from_numpy(bits) for layer, bits in population.masks.items()}
        for part in ("quality", "inverse_temperature", "roots"):
            tensors[f"{name}/{part}"] = torch.from_numpy(getattr(population, part))
    return tensors


def number(value: float) -> torch.Tensor:
    """Return a number as a tensor of one."""
    return torch.tensor([value], dtype=torch.float64)


def unpacked(sample: Tensors) -> Splitting:
    """Return what `packed` made tensors of."""

    def population(name: str) -> Population:
        own = {part: tensor.numpy() for part, tensor in under(name, sample).items()}
        masks = {part.removeprefix("masks/"): bits for part, bits in own.items() if part.startswith("masks/")}
        return Population(masks, own["quality"], own["inverse_temperature"], own["roots"])

    log10_p, pilot_log10_p, variance = (float(sample[name]) for name in ("log10_p", "pilot_log10_p", "variance"))
    swapped = {name: int(count) for name, count in under("swapped", sample).items()}
    return Splitting(population("pilot"), population("second"), log10_p, pilot_log10_p, variance, swapped)
