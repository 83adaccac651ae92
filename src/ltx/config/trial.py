"""Whether the parts of a run fit together: each is checked against the others, and the network tried on a batch."""

from __future__ import annotations

import contextlib
import inspect
import json
import typing
from typing import Any

from ltx.config.schema import checked
from ltx.config.signatures import takes
from ltx.config.trunk import Checked
from ltx.config.trunk import check as check_trunk
from ltx.errors import BadInput, nearest, of_the_users

if typing.TYPE_CHECKING:
    from torch import Tensor, nn

    from ltx.data import Dataset, Facts
    from ltx.methods import Plan
    from ltx.training.form import Form
    from ltx.training.optim import SGD, Adam

TRAINED = ("weights", "scores")


class Parts(Checked, typing.Protocol):
    """What is looked at of a run's spec."""

    @property
    def optim(self) -> SGD | Adam:
        """The optimiser with its fields."""

    @property
    def facts(self) -> Facts:
        """What the data set is."""

    @property
    def data(self) -> Dataset:
        """The data set, loaded."""

    @property
    def form(self) -> Form:
        """Precision and memory layout."""

    @property
    def on_data(self) -> str:
        """The model and what it is fed, in words."""

    def plan(self, level: int) -> Plan:
        """Return what a level does."""


_tried: set[tuple[Any, str]] = set()  # models, by class and config, that have been tried on a batch in this process


def check(spec: Parts) -> None:
    """Raise BadInput where parts that are valid alone do not fit together. Needs the data set's facts alone."""
    from ltx.methods import Layout
    from ltx.tensors import matrices as matrices_of

    check_width(spec)
    network = spec.network(device="meta")
    check_layout(spec, network)
    matrices = matrices_of(network)
    if not matrices:
        raise BadInput(f"{spec.on_data} has no weight matrices: there is nothing to prune or to search.")
    check_precision(spec)
    try_out(spec, network)
    check_trunk(spec, network)
    with guarded(spec.config["method"]["name"], "cannot be used"):
        try:
            spec.optim.check()
            if spec.method.trains not in TRAINED:
                raise BadInput(f"the method trains {spec.method.trains}{nearest(spec.method.trains, TRAINED)}")
            names = spec.method.prunable(matrices)
            unknown = [name for name in names if name not in matrices]
            if unknown:
                raise BadInput(f"the method would prune {unknown[0]}{nearest(unknown[0], matrices)}")
            spec.method.check(Layout.of(network, names, spec.config["model"], spec.facts.task), spec.optim.steps)
            try_symmetry(spec)
        except ValueError as error:
            raise BadInput(f"{str(error).rstrip('.')}.") from error
        for level in {0, spec.method.last_level}:
            spec.plan(level)
    check_devices(spec)


def try_symmetry(spec: Parts) -> None:
    """Raise ValueError where a network of the user's does not have the symmetries that the method needs of it."""
    from ltx.streams import generator
    from ltx.symmetry import table_of, verify
    from ltx.tensors import seeded

    if spec.method.needs_symmetry and ":" in spec.config["model"]["name"]:
        import torch

        rng = generator("trial", 0, "symmetry")
        with seeded(0):
            module = spec.network()
        zeros = spec.facts.zeros(20, "cpu")
        verify(module, table_of(module), torch.from_numpy(rng.standard_normal(tuple(zeros.shape))).float(), rng)


def check_width(spec: Parts) -> None:
    """Raise BadInput where a width is asked of a network that takes none: the key alone would change."""
    target, _ = checked("model", spec.config["model"])
    if spec.config["width"] != 1 and "width" not in inspect.signature(target).parameters:
        raise BadInput(
            f"model={spec.config['model']['name']} takes no width, so that width={spec.config['width']:g} would "
            "change nothing; leave it at width=1, or give the constructor an argument width."
        )


def check_precision(spec: Parts) -> None:
    """Raise BadInput where scores would be searched in bfloat16: edge-popup on digits stays at chance so."""
    if spec.form.reduced and spec.method.trains == "scores":
        raise BadInput(
            f"method={spec.config['method']['name']} cannot search with trainer.precision=bf16-true: what changes "
            "a score by less than about 1/256 of it is lost, so that scores stay where they were drawn; "
            "trainer.precision=bf16-mixed keeps them in float32 and is as fast."
        )


def check_layout(spec: Parts, network: nn.Module) -> None:
    """Raise BadInput where a layout is asked of a network without kernels: the key alone would change."""
    if spec.form.channels_last and not any(parameter.ndim == 4 for parameter in network.parameters()):
        raise BadInput(
            f"model={spec.config['model']['name']} has no convolutions of images, so that model.channels_last=true "
            "would change nothing; leave it out."
        )


def remedy(spec: Parts) -> str:
    """Say how a constructor of a package is told its number of outputs, where it may be."""
    target, _ = checked("model", spec.config["model"])
    return f" Give it model.num_classes={spec.facts.classes}." if takes(target, "num_classes") else ""


def try_out(spec: Parts, network: nn.Module) -> None:
    """Raise BadInput where the network does not map a batch of two examples to outputs that can be trained.

    Of ltx's own models shapes say enough, on `meta`. A model of the user's computes with zeros: types that do not
    fit, or outputs that no gradient goes through, show only so. One that cannot do with zeros gets real examples.
    """
    from ltx.tensors import seeded

    users_own = ":" in spec.config["model"]["name"]
    target, _ = checked("model", spec.config["model"])
    same = (target, json.dumps([spec.config[n] for n in ("model", "data", "width", "trainer")], sort_keys=True))
    if same in _tried:
        return
    with seeded(0):
        module = spec.network() if users_own else network
        x = spec.facts.zeros(2, "cpu" if users_own else "meta")
        try:
            tried(spec, module, x)
        except BadInput as refused:
            if not users_own or refused.__cause__ is None:  # the outputs' shape and type do not hang on values
                raise
            tried(spec, spec.network(), spec.data.train.take(slice(0, 2))[0])
    _tried.add(same)


def tried(spec: Parts, module: nn.Module, x: Tensor) -> None:
    """Raise BadInput where a module fails on a batch, training or evaluated, or returns what it should not."""
    import torch

    from ltx.training.task import TASKS

    expected = TASKS[spec.facts.task].shape(len(x), spec.facts)
    outputs = f"one number for each of the {spec.facts.classes} classes"
    module.requires_grad_(True)
    for training in (True,) if x.is_meta else (False, True):  # shapes are the same, and norms slow on meta
        failing = of_the_users(f"{spec.on_data} fails on a batch")
        with failing, torch.set_grad_enabled(training), spec.form.context("cpu"):
            found = module.train(training)(spec.form.inputs(x))
        if not isinstance(found, torch.Tensor):
            raise BadInput(f"{spec.on_data} returns a {type(found).__name__}; it should return one tensor, {outputs}.")
        if tuple(found.shape) != expected:
            raise BadInput(
                f"{spec.on_data} returns shape {tuple(found.shape)} for {len(x)} examples; expected "
                f"{expected}: {outputs}.{remedy(spec) if found.ndim == 2 else ''}"
            )
        if not found.is_floating_point():
            raise BadInput(f"{spec.on_data} returns {found.dtype}, which cannot be trained; it should return floats.")
    if not found.requires_grad:
        raise BadInput(
            f"{spec.on_data} returns outputs that do not depend on its parameters (they are detached, say, or made "
            "under no_grad), so that it cannot be trained."
        )
    if x.device.type != "meta":
        with of_the_users(f"{spec.on_data} fails when gradients are computed"):
            found.sum().backward()


def check_devices(spec: Parts) -> None:
    """Raise BadInput where several devices are asked for that would do nothing, or something else than one does."""
    from ltx.methods import WithoutGradients

    trainer, batch, method = spec.config["trainer"], spec.optim.batch, spec.config["method"]["name"]
    devices = trainer["devices"]
    if devices == 1:
        return
    if trainer["replicas"] > 1:
        raise BadInput(
            f"trainer.devices={devices} trains a seed on several devices and trainer.replicas={trainer['replicas']} "
            "several seeds on one; use one of them."
        )
    if trainer["strategy"] != "ddp":
        raise BadInput(
            f"trainer.devices={devices} needs trainer.strategy=ddp, which shares every batch of a seed between them; "
            "seeds and points run side by side without it, by workers=N."
        )
    if isinstance(spec.method, WithoutGradients):
        raise BadInput(f"method={method} takes no optimiser steps that trainer.devices={devices} could share; use 1.")
    if batch < devices:
        raise BadInput(f"optim.batch={batch} is smaller than trainer.devices={devices}; use at most {batch} devices.")
    if ":" in spec.config["model"]["name"]:  # ltx's own draw nothing, and mix examples by BatchNorm alone
        check_parts(spec)


def check_parts(spec: Parts) -> None:
    """Raise BadInput where a network draws, or gives other outputs for the parts of a batch than for the whole."""
    import torch

    from ltx.tensors import seeded
    from ltx.training.ranks import batch_norms

    network, x = spec.network().train(), spec.form.inputs(spec.data.train.take(slice(0, 4))[0])
    for norm in batch_norms(network):
        norm.eval()  # these take the statistics of the whole batch on every device
    half = len(x) // 2
    failing = of_the_users(f"{spec.on_data} fails on a part of a batch")
    with failing, seeded(0), torch.no_grad(), spec.form.context("cpu"):
        before = torch.get_rng_state()
        whole = network(x).float()
        drawn = not torch.equal(before, torch.get_rng_state())
        parts = torch.cat([network(x[:half]), network(x[half:])]).float()
    model, devices = spec.config["model"]["name"], spec.config["trainer"]["devices"]
    if drawn:
        raise BadInput(
            f"model={model} draws random numbers in forward (dropout, say), which would be others on "
            f"trainer.devices={devices} than on one; use 1, or a network that draws nothing."
        )
    if not torch.allclose(whole, parts, rtol=0, atol=1e-2 * float(whole.abs().max())):
        raise BadInput(
            f"model={model} computes something else of the parts of a batch than of the whole, so that "
            f"trainer.devices={devices} would train another network than one; use 1, or torch's own BatchNorm, whose "
            "statistics ltx takes over all devices."
        )


def guarded(method: str, what: str) -> contextlib.AbstractContextManager[None]:
    """Return what turns the errors of a user's own method into one paragraph; those of ltx's own are its bugs."""
    return of_the_users(f"method.name={method} {what}") if ":" in method else contextlib.nullcontext()
