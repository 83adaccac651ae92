"""The spec of a run: a plain config made typed, checked, named and built. No Hydra: workers get the plain dict."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import typing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ltx.config.loading import content, facts, load
from ltx.config.names import GROUPS, PLUMBING, find, readable
from ltx.config.schema import RunConfig, checked, refuse
from ltx.config.signatures import pretrained, source_of
from ltx.config.trial import check, guarded
from ltx.config.weights import Start, own_weights, start_of, with_digest
from ltx.errors import BadInput, of_the_users

if typing.TYPE_CHECKING:
    from torch import nn

    from ltx.data import Dataset, Facts
    from ltx.methods import Method, Plan
    from ltx.streams import Streams
    from ltx.training.form import Form
    from ltx.training.optim import SGD, Adam

NUMERICS = 2  # raise it when the code's results change: old runs then keep their keys, new ones get others


@dataclass(frozen=True)
class Spec:
    """A validated run: `config` is canonical (typed, resolved, plain), everything else derives from it.

    `trunk` is the run this one stands on, if any; its whole config is part of this one's.
    """

    config: dict[str, Any]
    method: Method
    optim: SGD | Adam
    trunk: Spec | None

    @classmethod
    def of(cls, config: dict[str, Any]) -> Spec:
        """Validate a plain config. Raises BadInput; of the user's files it reads at most model.weights."""
        try:
            valid = RunConfig(**config)
        except ValidationError as error:
            raise refuse(error, "", "a run", RunConfig.model_fields) from error
        plain = valid.model_dump()
        below = None
        if plain["trunk"] is not None:
            below = cls.of(plain["trunk"])
            plain["trunk"] = below.config
            if "levels" in plain["method"] and plain["method"]["levels"] is None:
                plain["method"] = {**plain["method"], "levels": below.method.last_level}
        parts = {}
        for group in GROUPS:
            target, arguments = checked(group, plain[group])
            if group == "model" and pretrained(target):
                arguments = with_digest(arguments)
            plain[group] = {"name": plain[group]["name"], **arguments}
            parts[group] = (target, arguments)
        place = plain["data"].get("path")
        if place is not None and ":" not in plain["data"]["name"]:  # a trunk is found from other folders as well
            plain["data"]["path"] = os.path.abspath(os.path.expanduser(place))
        if not plain["root"].strip():
            raise BadInput("root= is empty; name a folder, or leave it out for outputs.")
        seeds = plain["seeds"]
        if isinstance(seeds, list) and len(set(seeds)) < len(seeds):
            raise BadInput(f"seeds={seeds} names a seed twice.")
        method_class, method_arguments = parts["method"]
        optim_class, optim_arguments = parts["optim"]
        with guarded(plain["method"]["name"], "cannot be made"):
            method = method_class(**method_arguments)
        spec = cls(plain, method, optim_class(**optim_arguments), below)
        check(spec)
        return spec

    @property
    def on_data(self) -> str:
        """Name the model and what it is fed, for messages."""
        shape = "x".join(map(str, self.facts.input_shape))
        return f"model={self.config['model']['name']} for input {shape} ({self.config['data']['name']})"

    @cached_property
    def form(self) -> Form:
        """The form of the run's tensors: precision and memory layout."""
        from ltx.training.form import Form, overruns

        channels_last = bool(self.config["model"].get("channels_last")) and not overruns(self.made("meta"))
        return Form(self.config["trainer"]["precision"], channels_last)

    @property
    def users_own(self) -> bool:
        """Whether the network is a class that is not ltx's, named as module:class."""
        return ":" in self.config["model"]["name"]

    @property
    def seeds(self) -> list[int]:
        """The seeds asked for."""
        seeds = self.config["seeds"]
        return list(range(seeds)) if isinstance(seeds, int) else seeds

    @cached_property
    def key(self) -> str:
        """Name the run: readable parts and a hash of everything that changes its results."""
        identity = {name: value for name, value in self.config.items() if name not in PLUMBING}
        identity["method"] = {k: v for k, v in identity["method"].items() if k not in self.method.extents}
        identity |= self.data_identity()
        identity["trainer"] = {"precision": self.config["trainer"]["precision"]}
        identity["numerics"] = NUMERICS
        if self.validated < self.facts.val:
            identity["validated"] = self.validated
        if self.start is not None:
            identity["weights"] = self.start.digest
            identity["model"] = {k: v for k, v in identity["model"].items() if k not in ("weights", "weights_digest")}
        identity["trunk"] = self.trunk.key if self.trunk else None
        identity["own"] = {g: self.source(g) for g in GROUPS if ":" in self.config[g]["name"]}
        text = json.dumps(without_nulls(identity), sort_keys=True, separators=(",", ":"))
        return f"{readable(self.config)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def data_identity(self) -> dict[str, Any]:
        """Return what stands for the data in a run's key: with a path a digest of what is there, wherever it lies."""
        data = self.config["data"]
        if ":" in data["name"]:  # an argument `path` of a user's class is theirs
            return {"data": data}
        identity = {name: value for name, value in data.items() if name != "decoders"}
        if data.get("path") is None:
            return {"data": identity}
        origin = find("data", data["name"]).origin  # type: ignore[attr-defined]
        identity = {name: value for name, value in identity.items() if name not in origin}
        return {"data": identity, "data_digest": content(json.dumps(data, sort_keys=True))}

    def source(self, group: str) -> str:
        """Return what a key holds of a user's own class: its file, and its package's version."""
        return source_of(find(group, self.config[group]["name"]))

    def identity(self, seed: int) -> dict[str, Any]:
        """Return what the files of one seed must say of themselves."""
        return {"key": self.key, "trunk": self.trunk.key if self.trunk else None, "seed": seed}

    @property
    def directory(self) -> Path:
        """The run's directory under the output root."""
        return Path(self.config["root"]) / "runs" / self.key

    @property
    def facts(self) -> Facts:
        """What the data set is. One of the user's own that does not say so is loaded to see."""
        return facts(json.dumps(self.config["data"], sort_keys=True))

    @property
    def validated(self) -> int:
        """How many validation examples are looked at while a level trains."""
        from ltx.data.splits import grid_size

        return grid_size(self.optim.steps * self.optim.batch, self.facts.val)

    @property
    def start(self) -> Start | None:
        """The file of weights that the run starts from, if any."""
        return start_of(self.config["model"])

    @property
    def data(self) -> Dataset:
        """The data set as the run sees it, loaded."""
        return load(json.dumps(self.config["data"], sort_keys=True))

    def plan(self, level: int) -> Plan:
        """Return what a level does; a method without gradients takes no steps."""
        from ltx.methods import WithoutGradients

        steps = 0 if isinstance(self.method, WithoutGradients) else self.optim.steps
        return self.method.plan(level, steps, self.trunk.plan(0) if self.trunk else None)

    def streams(self, seed: int) -> Streams:
        """Return the random streams of one seed."""
        from ltx.streams import Streams

        return Streams.of(seed, self.config["streams"])

    def network(self, device: str = "cpu", streams: Streams | None = None) -> nn.Module:
        """Build the network in the run's form; with streams, initialised from them. On `meta` it has no values.

        It is the network as drawn, before it takes the weights of a file (see `start`).
        """
        from ltx.models import constructed, initialise

        if streams is None:
            return self.form.network(untied(self.made(device), self.config["model"]["name"]))
        network = constructed(lambda: self.made(device), streams)
        initialise(network, self.config["model"]["init"], streams)
        return self.form.network(network)

    def made(self, device: str) -> nn.Module:
        """Call the model's constructor. Raises BadInput where the model does not take what it is given."""
        import torch

        target, arguments = checked("model", self.config["model"])
        for outside in ("init", "channels_last"):
            arguments.pop(outside)
        context = {"input_shape": self.facts.input_shape, "classes": self.facts.classes, "width": self.config["width"]}
        wanted, start = inspect.signature(target).parameters, pretrained(target)
        given = {name: value for name, value in arguments.items() if name not in start}
        given |= {name: value for name, value in context.items() if name in wanted}
        with of_the_users(f"{self.on_data} cannot be built{own_weights(given)}"), torch.device(device):
            return a_module(target(**given), self.config["model"]["name"])

    def redrawn(self, network: nn.Module, streams: Streams) -> nn.Module:
        """Return the network initialised from streams; a given one is drawn anew in place, which costs a tenth."""
        from ltx.models import initialise

        init = self.config["model"]["init"]
        if init is None:
            return self.network(streams=streams)
        initialise(network, init, streams)
        return network


def a_module(made: Any, name: str) -> nn.Module:
    """Return what a model's class or function made, or raise BadInput where it is no network that can be trained."""
    from torch import nn
    from torch.nn.parameter import is_lazy

    if not isinstance(made, nn.Module):
        raise BadInput(f"model={name} returned a {type(made).__name__}; a model should be an nn.Module.")
    lazy = [name for name, tensor in (*made.named_parameters(), *made.named_buffers()) if is_lazy(tensor)]
    if lazy:
        raise BadInput(
            f"model={name} has lazy layers ({', '.join(lazy)}), whose shapes are not known before a batch; give their "
            "sizes, from input_shape, classes and width."
        )
    kinds = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in made.parameters()})
    if len(kinds) > 1 or not all(parameter.is_floating_point() for parameter in made.parameters()):
        raise BadInput(f"model={name} has parameters of {' and '.join(kinds)}; all should be floats of one kind.")
    return made


def untied(network: nn.Module, name: str) -> nn.Module:
    """Return the network, or raise BadInput where two names share one parameter: a mask would miss the second."""
    names = {name for name, _ in network.named_parameters()}
    tied = [name for name, _ in network.named_parameters(remove_duplicate=False) if name not in names]
    if tied:
        raise BadInput(
            f"model={name} shares parameters between layers ({', '.join(tied)}), which cannot be pruned yet."
        )
    return network


def without_nulls(value: Any) -> Any:
    """Drop every key whose value is null: a new key that is null must not change old runs' names."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return value
