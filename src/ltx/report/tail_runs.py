"""What runs say of random tickets: sampled masks, and curves by splitting, of each network."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ltx.analysis.curves import Curve, averaged, sampled
from ltx.analysis.repeats import LEAST, Repeats, combine
from ltx.analysis.returns import log2_choose
from ltx.analysis.shape import DEEP
from ltx.config import flat
from ltx.config.loading import facts
from ltx.config.names import own_names
from ltx.errors import BadInput, notice
from ltx.report.status import Entry
from ltx.store.files import Damaged, read_yaml, unpack
from ltx.store.folders import RunFolder
from ltx.store.rows import Row
from ltx.store.seeds import SeedFolder, belongs
from ltx.tensors import under

if TYPE_CHECKING:
    from ltx.tensors import Tensors

SAMPLE, SPLIT = "ticket_sample", "ticket_split"
SCORED = 2_000  # examples that a quality is the mean of where the config does not say
LEAST_MASKS = 1_000  # sampled ones, for a curve of theirs

Base = tuple[tuple[str, str], ...]  # what two runs have in common whose widths are compared


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


@dataclass
class Network:
    """All points of one data set and one model up to its width."""

    base: Base
    classes: int
    points: dict[tuple[float, float], Point] = field(default_factory=dict)


def networks(entries: Sequence[Entry]) -> list[Network]:
    """Return what runs of sampling and splitting say, by data set and model, and say which runs are left out."""
    found: dict[Base, Network] = {}
    for entry in entries:
        if entry.config.get("method.name") in (SAMPLE, SPLIT):
            try:
                add(found, entry)
            except (Damaged, BadInput) as error:  # a config that is damaged, or data that are no longer there
                notice(f"{entry.standing.path}: {error}; it is left out.")
    return [network for network in found.values() if network.points]


def base_of(config: flat.Flat) -> Base:
    """Return what must be the same for two runs to be compared over widths."""
    own = {key: value for key, value in config.items() if key.startswith(("data.", "model."))}
    own["method.exclude"] = config.get("method.exclude", [])
    own["method.examples"] = config.get("method.examples", SCORED)
    return tuple(sorted((key, flat.value_text(value)) for key, value in own.items()))


def add(found: dict[Base, Network], entry: Entry) -> None:
    """Add a run of sampling or splitting to the networks. Raises Damaged."""
    config, folder = read_yaml(entry.standing.path / "config.yaml"), RunFolder(entry.standing.path)
    if own_names(config):
        notice(f"{folder.path} names code outside ltx, which is not executed for a look; it is left out.")
        return
    base = base_of(entry.config)
    network = found.setdefault(base, Network(base, facts(json.dumps(config["data"], sort_keys=True)).classes))
    streams, method = config.get("streams") or {}, config["method"]
    for seed in folder.seeds():
        tensors = first_level(seed)
        if tensors is None:
            continue
        masks = under("mask", tensors)
        kept = {name: int(mask.sum()) for name, mask in masks.items()}
        bits = math.fsum(log2_choose(mask.numel(), kept[name]) for name, mask in masks.items())
        at = (float(config["width"]), float(method["density"]))
        point = network.points.setdefault(at, Point(*at, sum(kept.values()), bits))
        point.runs += [entry.key] if entry.key not in point.runs else []
        init, stream = (seed.seed if streams.get(name) is None else streams[name] for name in ("init", "mask"))
        own = point.inits.setdefault(init, Init(-math.log(network.classes)))
        if method["name"] == SAMPLE and stream not in own.blocks:
            add_blocks(own, seed, stream)
        elif method["name"] == SPLIT:
            rows = seed.rows()
            found_curve = split_curve(rows, f"{entry.key}, seed {seed.seed}")
            if found_curve is not None:
                settings = Settings(int(method["masks"]), float(method["keep"]), int(method["sweeps"]))
                own.split_runs.append(Repeat(stream, settings, len(rows), *found_curve))


def level(folder: SeedFolder, number: int) -> Tensors | None:
    """Return the tensors of a level's file, None where it is damaged, which is said. Nothing is set aside."""
    path = folder.level_path(number)
    try:
        tensors, meta = unpack(path)
        belongs(path, meta, {**folder.identity, "level": number})
    except Damaged as error:
        notice(f"{error}; it is left out.")
        return None
    return tensors


def first_level(folder: SeedFolder) -> Tensors | None:
    """Return the tensors of the first level that can be read."""
    return next((found for number in folder.levels() if (found := level(folder, number)) is not None), None)


def add_blocks(init: Init, folder: SeedFolder, stream: int) -> None:
    """Add the blocks of sampled masks of a seed."""
    for number in folder.levels():
        tensors = level(folder, number)
        if tensors is not None and "sample/quality" in tensors:
            init.blocks.setdefault(stream, []).append(tensors["sample/quality"].numpy())
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


def model_words(base: Base) -> str:
    """Name a network by the values of its config, `model=mlp hidden=[16] on data=digits`."""
    said = dict(base)
    hidden = f" hidden={said['model.hidden']}" if "model.hidden" in said else ""
    return f"model={said.get('model.name', '?')}{hidden} on data={said.get('data.name', '?')}"


def unfinished(entries: Sequence[Entry], keys: Collection[str]) -> list[str]:
    """Say which of the runs that were read have levels missing."""
    return [
        f"{entry.key} is {entry.standing.state}: {entry.json()['levels_done']} of {entry.json()['levels']} levels are "
        "there, and the rest would move these numbers"
        for entry in entries
        if entry.key in keys and entry.standing.state != "done"
    ]
