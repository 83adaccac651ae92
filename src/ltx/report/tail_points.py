"""What is known of the random tickets of one width and density: sampled masks and curves by splitting of each init."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from ltx.analysis.curves import Curve, averaged, sampled
from ltx.analysis.repeats import LEAST, Repeats, combine
from ltx.analysis.returns import log2_choose
from ltx.analysis.shape import DEEP
from ltx.errors import notice
from ltx.store.rows import Row
from ltx.tensors import under

if TYPE_CHECKING:
    from ltx.tensors import Tensors

SAMPLE, SPLIT = "ticket_sample", "ticket_split"
LEAST_MASKS = 1_000  # sampled ones, for a curve of theirs


@dataclass(frozen=True)
class Settings:
    """How splitting was done; repeats of different settings are not mixed."""

    masks: int
    keep: float
    sweeps: int


@dataclass(frozen=True)
class Repeat:
    """One run of splitting from one stream of masks: its curve, and how many levels it has.

    sd: of log10 P at each point of the curve, if all masks were independent, as the run recorded it.
    """

    stream: int
    settings: Settings
    levels: int
    curve: Curve
    sd: Sequence[float]

    def at(self, quality: float) -> tuple[float, float]:
        """Return log10 P at a quality of the curve, and its sd there."""
        return self.curve.log_p_at(quality) / math.log(10), float(np.interp(quality, self.curve.quality, self.sd))


@dataclass
class Init:
    """One initialisation at one width: the qualities of sampled masks, and the curves of repeats of splitting.

    nothing: -log(classes), the quality of a mask that knows nothing.
    """

    nothing: float
    blocks: dict[object, list[np.ndarray]] = field(default_factory=dict)  # by the stream of the masks
    dead: int = 0
    split_runs: list[Repeat] = field(default_factory=list)

    @cached_property
    def qualities(self) -> np.ndarray:
        """The qualities of all sampled masks."""
        return np.concatenate([block for blocks in self.blocks.values() for block in blocks] or [np.empty(0)])

    @cached_property
    def repeats(self) -> list[Repeat]:
        """The repeats that count: of one setting, those that have all of its levels, one for each stream of masks.

        Of several settings the one that reaches deepest counts, down to 1e-12, and then the one with most repeats. A
        repeat that is not finished says nothing of where it will end, and would only cut the others off; one that died
        out is finished.
        """
        groups: dict[Settings, dict[int, Repeat]] = {}
        for one in sorted(self.split_runs, key=lambda one: one.levels):
            groups.setdefault(one.settings, {})[one.stream] = one
        finished = []
        for group in groups.values():
            last = max(one.levels for one in group.values())
            finished.append([one for one in group.values() if one.levels == last])
        floor = math.log(DEEP)
        return min(finished, key=lambda own: (max(floor, *(r.curve.deepest for r in own)), -len(own)), default=[])

    @cached_property
    def mean(self) -> Curve | None:
        """The mean of the repeats' curves; None where there are none, or no quality that all of them reach."""
        curves = [one.curve for one in self.repeats]
        begin, end = (f(curve.quality[at] for curve in curves) if curves else 0 for f, at in ((max, 0), (min, -1)))
        return averaged(curves) if begin < end else None

    @cached_property
    def split(self) -> Curve | None:
        """The mean curve by splitting with the median of all masks, None where there is none."""
        found = self.mean
        if found is None:
            return None
        if len(self.qualities) >= LEAST_MASKS:
            median = float(np.median(self.qualities))
        else:  # splitting begins where half of the masks are, or above the atom where that holds more
            median = self.nothing if self.atom >= 0.5 or math.isnan(self.atom) else float(found.quality[0])
        return replace(found, median=median)

    @cached_property
    def sampled(self) -> Curve | None:
        """The curve of sampled masks, None where they are few."""
        return sampled(self.qualities) if len(self.qualities) >= LEAST_MASKS else None

    @cached_property
    def atom(self) -> float:
        """The share of masks that know nothing, nan where that cannot be told.

        Without sampled masks it is what the first threshold of splitting leaves below it, where this is more than was
        meant to fall: a threshold cannot lie within the atom. Otherwise it is less than a half, and told as 0.
        """
        if len(self.qualities) >= LEAST_MASKS:
            return float(np.mean(self.qualities == self.nothing))
        if self.mean is None or self.repeats[0].settings.keep < 0.5:
            return math.nan
        first = math.exp(self.mean.log_p[0])
        return 1 - first if first < 0.8 * self.repeats[0].settings.keep else 0.0

    def log_p_at(self, quality: float) -> float:
        """Return ln P at a quality by splitting, else by sampled masks; nan where neither reaches it."""
        found = [curve.log_p_at(quality) for curve in (self.split, self.sampled) if curve is not None]
        return next((value for value in found if not math.isnan(value)), math.nan)

    def quality_at(self, log_p: float) -> float:
        """Return the quality of a given ln P likewise."""
        found = [curve.quality_at(log_p) for curve in (self.split, self.sampled) if curve is not None]
        return next((value for value in found if not math.isnan(value)), math.nan)

    def together(self) -> Repeats | None:
        """Return what the repeats say together at the deepest quality that all of them reach.

        None where they are too few to tell whether they agree, or where no quality is reached by all of them.
        """
        if len(self.repeats) < LEAST or self.mean is None:
            return None
        log10_p, sd = zip(*(one.at(float(self.mean.quality[-1])) for one in self.repeats), strict=True)
        return combine(log10_p, sd)


@dataclass
class Point:
    """The random tickets of one network at one width and density."""

    width: float
    density: float
    kept: int
    bits: float  # that its masks can say
    inits: dict[int, Init] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Seed:
    """A seed of a run of sampling or splitting: its number, and those of its streams `init` and `mask`."""

    key: str
    number: int
    config: Mapping[str, Any]
    classes: int
    init: int
    mask: int


def add_seed(
    points: dict[tuple[float, float], Point], seed: Seed, levels: Iterator[Tensors], rows: Sequence[Row]
) -> None:
    """Add a seed's sampled masks, or its curve by splitting, to the point of its width and density.

    levels: the tensors of its levels in turn; of splitting only the first is read. rows: those of splitting.
    Masks that were sampled from the same two streams before do not count again.
    """
    first = next(levels, None)
    if first is None:
        return
    method, masks = seed.config["method"], under("mask", first)
    at = (float(seed.config["width"]), float(method["density"]))
    if at not in points:
        kept = {name: int(mask.sum()) for name, mask in masks.items()}
        bits = math.fsum(log2_choose(mask.numel(), kept[name]) for name, mask in masks.items())
        points[at] = Point(*at, sum(kept.values()), bits)
    point = points[at]
    point.runs += [seed.key] if seed.key not in point.runs else []
    init = point.inits.setdefault(seed.init, Init(-math.log(seed.classes)))
    if method["name"] == SPLIT:
        found = split_curve(rows, f"{seed.key}, seed {seed.number}")
        if found is not None:
            settings = Settings(int(method["masks"]), float(method["keep"]), int(method["sweeps"]))
            init.split_runs.append(Repeat(seed.mask, settings, len(rows), *found))
    elif seed.mask not in init.blocks:
        for tensors in chain([first], levels):
            if "sample/quality" in tensors:
                init.blocks.setdefault(seed.mask, []).append(tensors["sample/quality"].numpy())
                init.dead += int(tensors["sample/dead"].sum())


def split_curve(rows: Sequence[Row], name: str) -> tuple[Curve, list[float]] | None:
    """Return the curve that the levels of splitting give, down to where the masks that are counted died out.

    Beside it stands the sd of log10 P at each of its points. The median of the curve is not known here, and stands at
    the first threshold. None where fewer than two levels tell a point.
    """
    points: list[tuple[float, float, float]] = []
    for row in sorted(rows, key=lambda row: row.level):
        told = [row.extra.get(column) for column in ("threshold", "log10_p", "log10_p_sd")]
        threshold, log10_p, sd = (float(one) if isinstance(one, float | int) else math.nan for one in told)
        if not (math.isfinite(threshold) and math.isfinite(log10_p) and math.isfinite(sd)):
            notice(
                f"{name}: no mask that is counted reached the threshold of level {row.level}; its curve ends before."
            )
            break
        if not points or threshold > points[-1][0]:
            points.append((threshold, log10_p * math.log(10), sd))
    if len(points) < 2:
        return None
    quality, log_p, sds = zip(*points, strict=True)
    return Curve.of(quality, log_p, quality[0]), [*sds]
