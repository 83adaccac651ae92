"""The spec of a run: a plain config made typed, checked, named and built. No Hydra: workers get the plain dict."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import typing
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ltx.config.schema import GROUPS, RunConfig, checked, find, refuse
from ltx.errors import BadInput, of_the_users

if typing.TYPE_CHECKING:
    from torch import nn

    from ltx.data import Dataset
    from ltx.methods import Method
    from ltx.streams import Streams
    from ltx.training.optim import SGD, Adam

NUMERICS = 2  # raise it when the code's results change: old runs then keep their keys, new ones get others
PLUMBING = ("root", "device", "threads", "workers", "wandb", "retry_failed", "fail_fast", "wait", "trust", "seeds")


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
        """Validate a plain config. Raises BadInput; touches no file of the user's."""
        try:
            valid = RunConfig(**config)
        except ValidationError as error:
            raise refuse(error, "", "a run", RunConfig.model_fields) from error
        plain = valid.model_dump()
        trunk = None
        if plain["trunk"] is not None:
            trunk = cls.of(plain["trunk"])
            plain["trunk"] = trunk.config
            if "levels" in plain["method"] and plain["method"]["levels"] is None:
                plain["method"] = {**plain["method"], "levels": trunk.method.last_level}
        parts = {}
        for group in GROUPS:
            target, arguments = checked(group, plain[group])
            plain[group] = {"name": plain[group]["name"], **arguments}
            parts[group] = (target, arguments)
        if not plain["root"].strip():
            raise BadInput("root= is empty; name a folder, or leave it out for outputs.")
        seeds = plain["seeds"]
        if isinstance(seeds, list) and len(set(seeds)) < len(seeds):
            raise BadInput(f"seeds={seeds} names a seed twice.")
        method_class, method_arguments = parts["method"]
        optim_class, optim_arguments = parts["optim"]
        spec = cls(plain, method_class(**method_arguments), optim_class(**optim_arguments), trunk)
        spec.check()
        return spec

    def check(self) -> None:
        """Raise BadInput where parts that are valid alone do not fit together."""
        from ltx.tensors import matrices as matrices_of

        network = self.network(device="meta")
        if not matrices_of(network):
            raise BadInput(f"{self.on_data} has no weight matrices: there is nothing to prune or to search.")
        self.try_out(network)
        self.check_trunk(network)
        parameters, matrices = dict(network.named_parameters()), matrices_of(network)
        layers = {name.rpartition(".")[0] for name in matrices}
        others = [name for name in parameters if name not in matrices]
        biases = [name for name in others if name.rpartition(".")[0] in layers]
        try:
            self.optim.check()
            self.method.check_model(biases, [name for name in others if name not in biases])
            prunable = self.method.prunable(matrices)
            self.method.check({name: parameters[name] for name in prunable}, self.optim.steps)
        except ValueError as error:
            raise BadInput(f"{str(error).rstrip('.')}.") from error

    @property
    def on_data(self) -> str:
        """Name the model and what it is fed, for messages."""
        shape = "x".join(map(str, self.data.input_shape))
        return f"model={self.config['model']['name']} for input {shape} ({self.config['data']['name']})"

    def try_out(self, network: nn.Module) -> None:
        """Raise BadInput where the network, on `meta`, does not map a batch of two examples to (2, classes) logits.

        A network that shapes alone cannot be sent through (it looks at values) is tried on two real examples.
        """
        import torch

        from ltx.tensors import seeded

        x, module = torch.empty(2, *self.data.input_shape, device="meta"), network
        try:
            with torch.no_grad():
                network(x)
        except Exception:  # whatever cannot be done without values is tried with them
            x, module = self.data.train.x[:2], self.network()
        for training in (True, False):
            with of_the_users(f"{self.on_data} fails on a batch"), torch.no_grad(), seeded(0):
                found = module.train(training)(x)
            if not isinstance(found, torch.Tensor):
                raise BadInput(
                    f"{self.on_data} returns a {type(found).__name__}; it should return one tensor of logits, a number "
                    f"for each of the {self.data.classes} classes."
                )
            if tuple(found.shape) != (len(x), self.data.classes):
                raise BadInput(
                    f"{self.on_data} returns shape {tuple(found.shape)} for {len(x)} examples; expected "
                    f"({len(x)}, {self.data.classes}): one number for each of the {self.data.classes} classes."
                )

    def check_trunk(self, network: nn.Module) -> None:
        """Raise BadInput where the run cannot stand on its trunk, or has none and needs one."""
        from ltx.tensors import matrices

        if self.trunk is None:
            if self.method.needs_trunk:
                name = self.config["method"]["name"]
                raise BadInput(
                    f"method={name} stands on another run: give trunk={{method:imp,method.levels:14}} or of=RUN."
                )
            return
        method, below = self.config["method"], self.trunk.config["method"]
        if self.method.needs_trunk:
            pinned = method.get("trunk_level")
            wanted, last = self.method.last_level if pinned is None else pinned, self.trunk.method.last_level
            if wanted > last:
                raise BadInput(f"level {wanted} of the trunk is asked for, but it has levels 0 to {last}.")
        shapes = {name: p.shape for name, p in self.trunk.network(device="meta").named_parameters()}
        unlike = [name for name, p in network.named_parameters() if shapes.get(name) != p.shape]
        if (self.method.needs_trunk and unlike) or set(matrices(network)) <= set(unlike):
            raise BadInput(
                f"the trunk's network has other shapes at {', '.join(unlike)}: what it found fits only "
                "a network of the same width, classes and input."
            )
        if method.get("kind") in ("ticket", "data_order") and below.get("retrain", "rewind") != "rewind":
            raise BadInput(
                f"method.kind={method['kind']} starts from the trunk's anchor, but the trunk goes on from "
                f"trained weights (method.retrain={below['retrain']}); give it method.retrain:rewind."
            )

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
        identity["trainer"] = {"precision": self.config["trainer"]["precision"]}
        identity["numerics"] = NUMERICS
        identity["trunk"] = self.trunk.key if self.trunk else None
        identity["own"] = {g: self.source(g) for g in GROUPS if ":" in self.config[g]["name"]}
        text = json.dumps(without_nulls(identity), sort_keys=True, separators=(",", ":"))
        names = [str(self.config[group]["name"]).rpartition(":")[2] for group in ("method", "model", "data")]
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return re.sub(r"[^A-Za-z0-9_.-]", "_", f"{'-'.join(names)}-w{self.config['width']:g}-{digest}")

    def source(self, group: str) -> str:
        """Return the SHA-256 of the file that holds a user's own class."""
        path = inspect.getsourcefile(find(group, self.config[group]["name"]))
        return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""

    def identity(self, seed: int) -> dict[str, Any]:
        """Return what the files of one seed must say of themselves."""
        return {"key": self.key, "trunk": self.trunk.key if self.trunk else None, "seed": seed}

    @property
    def directory(self) -> Path:
        """The run's directory under the output root."""
        return Path(self.config["root"]) / "runs" / self.key

    @property
    def data(self) -> Dataset:
        """The data set as the run sees it."""
        return load(json.dumps(self.config["data"], sort_keys=True))

    def streams(self, seed: int) -> Streams:
        """Return the random streams of one seed."""
        from ltx.streams import Streams

        return Streams.of(seed, self.config["streams"])

    def network(self, device: str = "cpu", streams: Streams | None = None) -> nn.Module:
        """Build the network; with streams, initialised from them. On `meta` it has shapes and no values."""
        import torch

        from ltx.models import constructed, initialise

        target, arguments = checked("model", self.config["model"])
        init = arguments.pop("init")
        context = {"input_shape": self.data.input_shape, "classes": self.data.classes, "width": self.config["width"]}
        wanted = inspect.signature(target).parameters
        given = arguments | {name: value for name, value in context.items() if name in wanted}

        def make() -> nn.Module:
            with of_the_users(f"{self.on_data} cannot be built"), torch.device(device):
                return a_module(target(**given), self.config["model"]["name"])

        if streams is None:
            return untied(make(), self.config["model"]["name"])
        network = constructed(make, streams)
        initialise(network, init, streams)
        return network


def a_module(made: Any, name: str) -> nn.Module:
    """Return what a model's class or function made, or raise BadInput where it is no network that can be trained."""
    from torch import nn
    from torch.nn.parameter import is_lazy

    if not isinstance(made, nn.Module):
        raise BadInput(f"model={name} returned a {type(made).__name__}; a model should be an nn.Module.")
    lazy = [name for name, parameter in made.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise BadInput(
            f"model={name} has lazy layers ({', '.join(lazy)}), whose shapes are not known before a batch; give their "
            "sizes, from input_shape, classes and width."
        )
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


@cache
def load(config: str) -> Dataset:
    """Load a data set from the JSON of its config node, once a process. Raises BadInput for what is no data set."""
    from ltx.data import Dataset, assemble, with_random_labels

    node = json.loads(config)
    target, arguments = checked("data", node)
    split_seed, random_labels = arguments["split_seed"], arguments.pop("random_labels")
    if "split_seed" not in inspect.signature(target).parameters:
        del arguments["split_seed"]
    with of_the_users(f"data.name={node['name']} cannot be loaded"):
        parts = target(**arguments).load()
        if not isinstance(parts, Dataset):
            parts = assemble(parts, split_seed)
    return with_random_labels(parts, split_seed) if random_labels else parts


def without_nulls(value: Any) -> Any:
    """Drop every key whose value is null: a new key that is null must not change old runs' names."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return value
