"""The runs that sampled or split random tickets, read from their folders, by network."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ltx.config import flat
from ltx.config.loading import facts
from ltx.config.names import own_names
from ltx.errors import BadInput, notice
from ltx.report.status import Entry
from ltx.report.tail_points import SAMPLE, SPLIT, Point, Seed, add_seed
from ltx.store.files import Damaged, read_yaml, unpack
from ltx.store.folders import RunFolder
from ltx.store.seeds import SeedFolder, belongs

if TYPE_CHECKING:
    from ltx.tensors import Tensors

SCORED = 2_000  # examples that a quality is the mean of where the config does not say

Base = tuple[tuple[str, str], ...]  # what two runs have in common whose widths are compared


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
    if own.get("model.name") == "lenet":  # the same class under another name
        own["model.name"] = "mlp"
    own["method.exclude"] = config.get("method.exclude", [])
    own["method.examples"] = config.get("method.examples", SCORED)
    own["method.population"] = config.get("method.population") or "masks"
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
    split = method["name"] == SPLIT
    for seed in folder.seeds():
        init, stream = (seed.seed if streams.get(name) is None else streams[name] for name in ("init", "mask"))
        who = Seed(entry.key, seed.seed, config, network.classes, init, stream)
        add_seed(network.points, who, readable(seed), seed.rows() if split else [])


def readable(folder: SeedFolder) -> Iterator[Tensors]:
    """Yield the tensors of each level; a file that is damaged is named and left out, and nothing is set aside."""
    for number in folder.levels():
        path = folder.level_path(number)
        try:
            tensors, meta = unpack(path)
            belongs(path, meta, {**folder.identity, "level": number})
        except Damaged as error:
            notice(f"{error}; it is left out.")
            continue
        yield tensors


def model_words(base: Base) -> str:
    """Name a network by the values of its config, `model=mlp hidden=[16] on data=digits`, and what is not usual."""
    said = dict(base)
    hidden = f" hidden={said['model.hidden']}" if "model.hidden" in said else ""
    scored = said["method.examples"]
    others = f", {scored} examples scored" if scored != str(SCORED) else ""
    others += ", inits under one mask" if said["method.population"] == "inits" else ""
    return f"model={said.get('model.name', '?')}{hidden} on data={said.get('data.name', '?')}{others}"


def unfinished(entries: Sequence[Entry], keys: Collection[str]) -> list[str]:
    """Say which of the runs that were read have levels missing."""
    return [
        f"{entry.key} is {entry.standing.state}: {entry.json()['levels_done']} of {entry.json()['levels']} levels are "
        "there, and the rest would move these numbers"
        for entry in entries
        if entry.key in keys and entry.standing.state != "done"
    ]
