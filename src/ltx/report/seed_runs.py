"""The losses of trained seeds by width: whether their spread shrinks as networks widen."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ltx.analysis.trends import LEAST_SEEDS
from ltx.config import flat
from ltx.errors import notice
from ltx.report.status import Entry
from ltx.report.tail_runs import Base, base_of
from ltx.store.files import Damaged, text

TRAINED = ("dense", "imp", "edge_popup")
FORM = ("model.init", "model.bias", "model.norm", "model.affine", "model.channels_last")  # what a method's recipe sets


@dataclass(frozen=True)
class Losses:
    """The test losses of trained seeds of one method, by width."""

    method: str
    losses: dict[float, list[float]]
    runs: list[str]


def seed_losses(entries: Sequence[Entry], base: Base) -> list[Losses]:
    """Return the losses of dense and pruned networks and of searched tickets on the same data and the same layers.

    Initialisation, biases and norms are not compared, for each method's recipe has its own. Of several settings of a
    method those with the most widths count, then those with the most seeds. IMP's first level is dense, and stands for
    dense runs where there are none.
    """
    common = {pair for pair in base if pair[0].startswith(("data.", "model.")) and pair[0] not in FORM}
    found: dict[tuple[str, str], Losses] = {}
    for entry in entries:
        config = entry.config
        method = config.get("method.name")
        own = {pair for pair in base_of(config) if pair[0].startswith(("data.", "model.")) and pair[0] not in FORM}
        if method not in TRAINED or own != common:
            continue
        rest = {key: flat.value_text(value) for key, value in config.items() if key not in ("width", *flat.NOT_SAID)}
        for name, by_seed in columns(entry.standing.path, str(method)).items():
            losses = [loss for loss in by_seed.values() if math.isfinite(loss)]
            if len(losses) >= LEAST_SEEDS:
                one = found.setdefault((name, json.dumps([method, *sorted(rest.items())])), Losses(name, {}, []))
                one.losses[float(config["width"])] = losses
                one.runs.append(entry.key)
    chosen: dict[str, Losses] = {}
    for (name, _), one in sorted(found.items(), key=lambda item: '"imp"' in item[0][1]):  # own dense runs before IMP's
        best = chosen.get(name)
        if best is None or weight(one) > weight(best):
            chosen[name] = one
    return [chosen[name] for name in TRAINED if name in chosen]


def weight(found: Losses) -> tuple[int, int]:
    """Return how many widths and seeds there are."""
    return len(found.losses), sum(map(len, found.losses.values()))


def columns(path: Path, method: str) -> dict[str, dict[int, float]]:
    """Return the test losses of a run's last level by seed under its method, and of IMP's first under `dense`."""
    try:
        lines = [*csv.DictReader((text(path / "summary.csv") or "").splitlines())]
        rows = [(int(line["seed"]), int(line["level"]), float(line["test_loss"])) for line in lines]
    except (Damaged, KeyError, ValueError, TypeError) as error:
        notice(f"{path / 'summary.csv'} cannot be read ({error}); it is left out.")
        return {}
    last = max((number for _, number, _ in rows), default=0)
    found = {method: {seed: loss for seed, number, loss in rows if number == last}}
    if method == "imp" and last:
        found["dense"] = {seed: loss for seed, number, loss in rows if number == 0}
    return found
