"""What is in a run's key, what is not, and some keys that must stay."""

from __future__ import annotations

import copy
import re
from functools import cache
from typing import Any

import pytest
import yaml

from ltx.config.compose import choices, compose
from ltx.config.names import CONF, GROUPS
from ltx.config.spec import Spec


@cache
def composed(*overrides: str) -> dict[str, Any]:
    return compose([*overrides], [])


def key(base: tuple[str, ...] = (), name: str = "", value: str = "") -> str:
    """Return the key of a composed config with one more value set."""
    config = copy.deepcopy(composed(*base))
    if name:
        *path, last = name.split(".")
        node = config
        for part in path:
            node = node[part]
        node[last] = yaml.safe_load(value)
    return Spec.of(config).key


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return {dotted name: value} of a config; lists and trunks are values."""
    if not isinstance(node, dict) or prefix == "trunk":
        return {prefix: node}
    return {k: v for name, child in node.items() for k, v in flat(child, f"{prefix}.{name}".strip(".")).items()}


SEARCH = {
    "method.density": "0.3",
    "method.scope": "global",
    "method.exclude": "[output]",
    "method.anneal": "true",
    "method.allow_dead_layers": "true",
    "method.freeze": "true",
}
# Of every field another value, for the default run and for those of other yamls. A new field belongs here, or below.
IN_THE_KEY = {
    (): {
        "data.split_seed": "1",
        "data.shift": "1",
        "model.init": "glorot_uniform",
        "model.hidden": "[300,99]",
        "model.norm": "batch",
        "model.bias": "false",
        "method.fraction": "0.3",
        "method.scope": "layer",
        "method.rewind": "1",
        "method.retrain": "finetune",
        "method.one_shot": "true",
        "method.criterion": "initial",
        "method.exclude": "[]",
        "optim.steps": "421",
        "optim.batch": "61",
        "optim.lr": "1.3e-3",
        "optim.schedule": "cosine",
        "optim.milestones": "[10]",
        "optim.gamma": "0.2",
        "optim.warmup": "1",
        "optim.weight_decay": "0.1",
        "optim.clip": "1",
        "optim.label_smoothing": "0.1",
        "optim.betas": "[0.9,0.99]",
        "optim.eps": "1.0e-7",
        "width": "2",
        "streams.init": "0",
        "streams.order": "0",
        "streams.augment": "0",
        "streams.mask": "0",
        "streams.noise": "0",
        "data.random_labels": "true",
        "model.affine": "false",
        "trainer.precision": "bf16-mixed",
    },
    ("optim=sgd",): {"optim.momentum": "0.8", "optim.nesterov": "true"},
    ("data=canvas",): {
        "data.examples": "24001",
        "data.size": "29",
        "data.scale": "[12,21]",
        "data.offset": "7",
        "data.rotation": "16",
        "data.contrast": "[0.6,0.9]",
        "data.fragments": "2",
        "data.noise": "11",
    },
    ("data=mnist1d",): {
        "data.examples": "4001",
        "data.padding": "[36,61]",
        "data.scale": "0.5",
        "data.translation": "48",
        "data.correlated_noise": "0.3",
        "data.noise": "0.03",
        "data.shear": "0.8",
        "data.length": "41",
        "data.shuffle": "true",
    },
    ("data=cifar10",): {
        "data.hub": "someone/else",
        "data.revision": "main",
        "data.image": "image",
        "data.label": "fine_label",
        "data.size": "32",
        "data.channels": "3",
        "data.shape": "[3,32,33]",
        "data.classes": "11",
        "data.train": "50001",
        "data.test": "10001",
        "data.val": "0.2",
        "data.test_share": "0.1",
        "data.mean": "[0.5,0.5,0.5]",
        "data.sd": "[0.5,0.5,0.5]",
        "data.flip": "false",
        "data.cutout": "8",
    },
    ("model=convnet",): {
        "model.channels": "[16,32,65]",
        "model.activation": "sign",
        "model.channels_last": "true",
    },
    ("model=conv2",): {"model.stages": "[[64,64],[65]]", "model.average": "true"},
    ("model=resnet20",): {
        "model.stem": "imagenet",
        "model.stem_channels": "17",
        "model.blocks": "[3,3,4]",
        "model.expansion": "1",
    },
    ("data=imagenet",): {
        "data.side": "192",
        "data.resize": "240",
        "data.classes": "999",
        "data.train": "1000000",
        "data.test": "49999",
        "data.val": "0.03",
        "data.test_share": "0.2",
        "data.hub": "owner/name",
        "data.revision": "main",
        "data.image": "picture",
        "data.label": "kind",
        "data.mean": "[0.4,0.4,0.4]",
        "data.sd": "[0.2,0.2,0.2]",
        "data.area": "0.2",
        "data.flip": "false",
    },
    ("method=edge_popup",): SEARCH | {"method.scale": "false", "method.redraw": "0.1", "method.redraw_every": "200"},
    ("method=biprop",): SEARCH,
    ("method=gem_miner",): {k: v for k, v in SEARCH.items() if k != "method.anneal"}
    | {"method.freeze_every": "10", "method.scope": "layer"},
    ("method=supermask",): {"method.freeze": "true"},
    ("method=at_init",): {
        "method.density": "0.3",
        "method.criterion": "grasp",
        "method.rounds": "2",
        "method.batches": "1",
        "method.temperature": "1",
        "method.exclude": "[]",
    },
    ("method=ticket_sample",): {
        "method.population": "inits",
        "method.density": "0.3",
        "method.examples": "500",
        "method.exclude": "[output]",
        "method.allow_dead_layers": "true",
    },
    ("method=ticket_split",): {
        "method.density": "0.3",
        "method.masks": "64",
        "method.keep": "0.3",
        "method.sweeps": "20",
        "method.examples": "500",
        "method.exclude": "[output]",
        "method.allow_dead_layers": "true",
    },
    ("method=dense",): {},
    ("method=control", "trunk={method:imp}"): {
        "method.kind": "shuffle",
        "method.trunk_level": "2",
        "method.trunk_seed": "1",
        "method.trunk_shift": "1",
        "method.binarise": "true",
    },
}
BY_ITSELF = {  # fields that cannot be set alone and have tests of their own
    "method.train_norms",  # needs norms, which are refused without a word on them: below
    "model.weights",  # needs a file, whose digest is in the key: tests/test_weights.py
    "model.weights_digest",
    "model.rename",
    "data.path",  # stands for the images in it: tests/test_images.py
    "trainer.devices",  # several need a strategy; outside the key: tests/test_ranks.py
    "data.decoders",  # outside the key: tests/test_imagenet.py
    *(f"data.{name}" for name in ("drop", "task", "standardise")),  # of a file: tests/test_table.py
}
OUTSIDE_THE_KEY = {
    "root": "elsewhere",
    "device": "cpu",
    "threads": "2",
    "workers": "1",
    "wandb.mode": "offline",
    "wandb.project": "other",
    "wandb.entity": "me",
    "wandb.group": "sweep",
    "wandb.name": "first",
    "wandb.notes": "tried",
    "wandb.tags": "[tried]",
    "wandb.job_type": "trial",
    "wandb.artifacts": "true",
    "trainer.deterministic": "false",
    "trainer.chunk": "7",
    "trainer.checkpoint_seconds": "1",
    "trainer.sparse_cpu": ".1",  # results change in rounding, as on another device
    "trainer.sparse_cuda": ".1",
    "trainer.cuda_graphs": "false",
    "trainer.strategy": "ddp",
    "trainer.replicas": "3",
    "retry_failed": "true",
    "report": "false",
    "trust": "true",
    "fail_fast": "true",
    "wait": "false",
    "seeds": "[3,8]",
    "method.levels": "2",
}


def words(overrides: tuple[str, ...]) -> str:
    return " ".join(overrides) or "default"


@pytest.mark.parametrize("base", IN_THE_KEY, ids=words)
def test_every_field_that_may_change_results_changes_the_key(base):
    before = key(base)
    for name, value in IN_THE_KEY[base].items():
        assert key(base, name, value) != before, f"{name}={value} is another run with the same key"


@pytest.mark.parametrize("name", ["edge_popup", "biprop", "supermask", "gem_miner"])
def test_norms_that_are_trained_make_another_run_than_norms_that_stay_as_drawn(name):
    base = (f"method={name}", "model=mlp", "model.affine=true")
    assert key((*base, "method.train_norms=true")) != key((*base, "method.freeze=true"))


@pytest.mark.parametrize("name", OUTSIDE_THE_KEY)
def test_plumbing_seeds_and_levels_are_outside_the_key(name):
    assert key((), name, OUTSIDE_THE_KEY[name]) == key()


@pytest.mark.parametrize("base", IN_THE_KEY, ids=words)
def test_every_field_is_known_to_be_in_the_key_or_outside_it(base):
    fields = {name for name in flat(Spec.of(composed(*base)).config) if not name.endswith(".name")}
    known = {*OUTSIDE_THE_KEY, *BY_ITSELF, "trunk", *(name for some in IN_THE_KEY.values() for name in some)}
    assert fields <= known, f"say in this file whether {sorted(fields - known)} change results"


def test_no_yaml_is_forgotten_here():
    """A method, model or optimiser with fields of its own needs its base above."""
    for group in GROUPS:
        for name in choices(group, []):
            content = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
            fields = {f"{group}.{field}" for field in content.keys() - {"name", "defaults", "recipe"}}
            known = {name for some in IN_THE_KEY.values() for name in some}
            assert fields <= known | {*OUTSIDE_THE_KEY, *BY_ITSELF}, name


def test_a_trunk_is_in_the_key_with_all_that_is_in_its_own():
    control = ("method=control", "trunk={method:imp,method.levels:2}")
    same = ("method=control", "trunk={method:imp,method.levels:3}", "method.levels=2", "workers=1")
    other = ("method=control", "trunk={method:imp,method.levels:2,method.fraction:0.3}")
    assert key(control) == key(same)
    assert len({key(control), key(other), key(("method=control", "trunk={method:imp}", "width=2"))}) == 3


def test_the_key_reads_as_method_model_data_and_width_whatever_way_a_value_is_written():
    name = key(("width=4",))
    assert re.fullmatch("imp-lenet-digits-w4-[0-9a-f]{8}", name)
    assert key(("width=4.0", "optim.lr=0.0012", "model.hidden=[300, 100]", "method.fraction=.2")) == name


def test_the_key_is_the_same_in_another_process_order():
    config = composed()
    assert Spec.of(dict(reversed(config.items()))).key == Spec.of(config).key


PINNED: dict[tuple[str, ...], str] = {
    (): "imp-lenet-digits-w1-2308ac06",
    ("method=dense",): "dense-lenet-digits-w1-9043b0d3",
    ("width=4",): "imp-lenet-digits-w4-8a62eeb2",
    ("width=.25", "seeds=5", "method.levels=20"): "imp-lenet-digits-w0.25-efd16283",
    ("model=mlp", "optim=sgd", "method.rewind=20"): "imp-mlp-digits-w1-2d88c96f",
    ("model=convnet", "optim=adamw", "data.shift=1"): "imp-convnet-digits-w1-4665c9aa",
    ("method.scope=layer", "method.fraction={fc1:.2,fc2:.1}"): "imp-lenet-digits-w1-969ce757",
    ("method.one_shot=true", "method.retrain=finetune", "method.criterion=movement"): "imp-lenet-digits-w1-6b1b339e",
    ("streams={init:3,order:4}", "data.split_seed=1", "trainer.precision=bf16-mixed"): "imp-lenet-digits-w1-07f81520",
    ("method=edge_popup",): "edge_popup-lenet-digits-w1-8265c882",
    ("model=resnet20",): "imp-resnet20-digits-w1-8c77c2eb",
    ("model=conv4", "width=.5"): "imp-conv4-digits-w0.5-1dae9425",
    ("method=biprop", "model=convnet"): "biprop-convnet-digits-w1-5c17c596",
    ("method=supermask", "model=mlp"): "supermask-mlp-digits-w1-4d297216",
    ("method=gem_miner",): "gem_miner-lenet-digits-w1-ad9ed3f6",
    ("method=control", "trunk={method:imp}"): "control-lenet-digits-w1-3264c5b6",
    ("optim.schedule=multistep", "optim.milestones=[200,300]", "optim.clip=1"): "imp-lenet-digits-w1-0b421ee4",
}


@pytest.mark.parametrize("overrides", PINNED, ids=words)
def test_pinned_keys_stay_as_they_are(overrides):
    now = key(overrides)
    assert now == PINNED[overrides], (
        f"The key of {words(overrides)} changed to {now}: runs made before would not be found again. Let a new field "
        "be null where it changes nothing, or keep it outside the key. If results did change, raise NUMERICS in "
        "src/ltx/config/spec.py, pin the new keys here and say so in CHANGELOG.md."
    )
