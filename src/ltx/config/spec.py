"""The spec of a run: a plain config made typed, checked, named and built. No Hydra: workers get the plain dict."""

from __future__ import annotations

import contextlib
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
from ltx.config.names import GROUPS, find, readable
from ltx.config.schema import RunConfig, checked, refuse
from ltx.config.signatures import pretrained, source_of, takes
from ltx.config.trunk import check as check_trunk
from ltx.config.weights import Start, own_weights, start_of, with_digest
from ltx.errors import BadInput, nearest, of_the_users

if typing.TYPE_CHECKING:
    from torch import Tensor, nn

    from ltx.data import Dataset, Facts
    from ltx.methods import Method, Plan
    from ltx.streams import Streams
    from ltx.training.form import Form
    from ltx.training.optim import SGD, Adam

NUMERICS = 2  # raise it when the code's results change: old runs then keep their keys, new ones get others
PLUMBING = ("root", "device", "threads", "workers", "wandb", "retry_failed", "fail_fast", "wait", "trust", "seeds")

TRAINED = ("weights", "scores")

_tried: set[tuple[Any, str]] = set()  # models, by class and config, that have been tried on a batch in this process


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
        spec.check()
        return spec

    def check(self) -> None:
        """Raise BadInput where parts that are valid alone do not fit together. Needs the data set's facts alone."""
        from ltx.methods import Layout
        from ltx.tensors import matrices as matrices_of

        self.check_width()
        network = self.network(device="meta")
        self.check_layout(network)
        matrices = matrices_of(network)
        if not matrices:
            raise BadInput(f"{self.on_data} has no weight matrices: there is nothing to prune or to search.")
        self.check_precision()
        self.try_out(network)
        check_trunk(self, network)
        with guarded(self.config["method"]["name"], "cannot be used"):
            try:
                self.optim.check()
                if self.method.trains not in TRAINED:
                    raise BadInput(f"the method trains {self.method.trains}{nearest(self.method.trains, TRAINED)}")
                names = self.method.prunable(matrices)
                unknown = [name for name in names if name not in matrices]
                if unknown:
                    raise BadInput(f"the method would prune {unknown[0]}{nearest(unknown[0], matrices)}")
                self.method.check(Layout.of(network, names, self.config["model"]), self.optim.steps)
            except ValueError as error:
                raise BadInput(f"{str(error).rstrip('.')}.") from error
            for level in {0, self.method.last_level}:
                self.plan(level)

    def check_width(self) -> None:
        """Raise BadInput where a width is asked of a network that takes none: the key alone would change."""
        target, _ = checked("model", self.config["model"])
        if self.config["width"] != 1 and "width" not in inspect.signature(target).parameters:
            raise BadInput(
                f"model={self.config['model']['name']} takes no width, so that width={self.config['width']:g} would "
                "change nothing; leave it at width=1, or give the constructor an argument width."
            )

    def check_precision(self) -> None:
        """Raise BadInput where scores would be searched in bfloat16: edge-popup on digits stays at chance so."""
        if self.form.reduced and self.method.trains == "scores":
            raise BadInput(
                f"method={self.config['method']['name']} cannot search with trainer.precision=bf16-true: what changes "
                "a score by less than about 1/256 of it is lost, so that scores stay where they were drawn; "
                "trainer.precision=bf16-mixed keeps them in float32 and is as fast."
            )

    def check_layout(self, network: nn.Module) -> None:
        """Raise BadInput where a layout is asked of a network without kernels: the key alone would change."""
        if self.form.channels_last and not any(parameter.ndim == 4 for parameter in network.parameters()):
            raise BadInput(
                f"model={self.config['model']['name']} has no convolutions of images, so that model.channels_last=true "
                "would change nothing; leave it out."
            )

    @property
    def on_data(self) -> str:
        """Name the model and what it is fed, for messages."""
        shape = "x".join(map(str, self.facts.input_shape))
        return f"model={self.config['model']['name']} for input {shape} ({self.config['data']['name']})"

    @property
    def remedy(self) -> str:
        """Say how a constructor of a package is told its number of outputs, where it may be."""
        target, _ = checked("model", self.config["model"])
        return f" Give it model.num_classes={self.facts.classes}." if takes(target, "num_classes") else ""

    def try_out(self, network: nn.Module) -> None:
        """Raise BadInput where the network does not map a batch of two examples to outputs that can be trained.

        Of ltx's own models shapes say enough, on `meta`. A model of the user's computes with zeros: types that do not
        fit, or outputs that no gradient goes through, show only so. One that cannot do with zeros gets real examples.
        """
        from ltx.tensors import seeded

        users_own = ":" in self.config["model"]["name"]
        target, _ = checked("model", self.config["model"])
        same = (target, json.dumps([self.config[n] for n in ("model", "data", "width", "trainer")], sort_keys=True))
        if same in _tried:
            return
        with seeded(0):
            module = self.network() if users_own else network
            x = self.facts.zeros(2, "cpu" if users_own else "meta")
            try:
                self.tried(module, x)
            except BadInput as refused:
                if not users_own or refused.__cause__ is None:  # the outputs' shape and type do not hang on values
                    raise
                self.tried(self.network(), self.data.train.take(slice(0, 2))[0])
        _tried.add(same)

    def tried(self, module: nn.Module, x: Tensor) -> None:
        """Raise BadInput where a module fails on a batch, training or evaluated, or returns what it should not."""
        import torch

        from ltx.training.task import TASKS

        expected = TASKS[self.facts.task].shape(len(x), self.facts)
        outputs = f"one number for each of the {self.facts.classes} classes"
        module.requires_grad_(True)
        for training in (True,) if x.is_meta else (False, True):  # shapes are the same, and norms slow on meta
            failing = of_the_users(f"{self.on_data} fails on a batch")
            with failing, torch.set_grad_enabled(training), self.form.context("cpu"):
                found = module.train(training)(self.form.inputs(x))
            if not isinstance(found, torch.Tensor):
                raise BadInput(
                    f"{self.on_data} returns a {type(found).__name__}; it should return one tensor, {outputs}."
                )
            if tuple(found.shape) != expected:
                raise BadInput(
                    f"{self.on_data} returns shape {tuple(found.shape)} for {len(x)} examples; expected "
                    f"{expected}: {outputs}.{self.remedy if found.ndim == 2 else ''}"
                )
            if not found.is_floating_point():
                raise BadInput(
                    f"{self.on_data} returns {found.dtype}, which cannot be trained; it should return floats."
                )
        if not found.requires_grad:
            raise BadInput(
                f"{self.on_data} returns outputs that do not depend on its parameters (they are detached, say, or made "
                "under no_grad), so that it cannot be trained."
            )
        if x.device.type != "meta":
            with of_the_users(f"{self.on_data} fails when gradients are computed"):
                found.sum().backward()

    @property
    def form(self) -> Form:
        """The form of the run's tensors: precision and memory layout."""
        from ltx.training.form import Form

        return Form(self.config["trainer"]["precision"], bool(self.config["model"].get("channels_last")))

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
        import torch

        from ltx.models import constructed, initialise

        target, arguments = checked("model", self.config["model"])
        init = arguments.pop("init")
        arguments.pop("channels_last")
        context = {"input_shape": self.facts.input_shape, "classes": self.facts.classes, "width": self.config["width"]}
        wanted = inspect.signature(target).parameters
        given = {name: value for name, value in arguments.items() if name not in pretrained(target)}
        given |= {name: value for name, value in context.items() if name in wanted}
        what = f"{self.on_data} cannot be built{own_weights(given)}"

        def make() -> nn.Module:
            with of_the_users(what), torch.device(device):
                return a_module(target(**given), self.config["model"]["name"])

        if streams is None:
            return self.form.network(untied(make(), self.config["model"]["name"]))
        network = constructed(make, streams)
        initialise(network, init, streams)
        return self.form.network(network)


def guarded(method: str, what: str) -> contextlib.AbstractContextManager[None]:
    """Return what turns the errors of a user's own method into one paragraph; those of ltx's own are its bugs."""
    return of_the_users(f"method.name={method} {what}") if ":" in method else contextlib.nullcontext()


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
