"""What a search asks of a model and an optimiser: its recipe, what is typed over it, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.errors import BadInput
from ltx.runs.worker import run_seed
from ltx.store.files import unpack
from ltx.tensors import under

SMALL = ("device=cpu", "model.hidden=[12,8]", "optim.steps=12", "optim.batch=50", "seeds=1")


def spec(*words: str) -> Spec:
    return Spec.of(compose([*SMALL, *words], []))


@pytest.mark.parametrize(
    "words, message",
    [
        (("method=edge_popup", "method.density=.005"), "no weight of layer fc2, out.*method.allow_dead_layers=true"),
        (("method=biprop", "method.density=.005", "method.exclude=[output]"), "layer fc2;.*allow_dead_layers=true"),
        (("method=edge_popup", "method.density=.0001", "method.scope=global"), "keeps no weight.*allow_dead_layers"),
        (("method=edge_popup", "model.bias=true"), "biases .*fc1.bias.*model.bias=false"),
        (("method=biprop", "model.bias=true"), "biases .*fc1.bias.*model.bias=false"),
        (("method=supermask", "model.bias=true"), "biases .*fc1.bias.*model.bias=false"),
        (("method=edge_popup", "model=mlp", "model.affine=true"), r"affine norms .*norm1\.weight.*affine=false"),
        (("method=gem_miner", "model=mlp", "model.affine=true"), r"affine norms .*norm1\.weight.*affine=false"),
        (("method=biprop", "model.activation=sign"), "need a norm before them: model.norm=batch"),
        (("method=edge_popup", "method.exclude=['*']"), "leaves nothing to mask"),
        (("method=at_init", "method.criterion=erk", "method.density=.001"), "no weight of layer.*allow_dead_layers"),
        (("method=at_init", "method.criterion=random", "method.density=.003"), "no weight of layer fc2.*dead_layers"),
        (("method=gem_miner", "method.anneal=true"), "freezing is the annealing"),
        (("method=edge_popup", "method.exclude=[fc9]"), "no layer is named 'fc9'"),
    ],
)
def test_what_contradicts_a_search_is_refused_with_the_remedy(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        spec(*words)


class Net(nn.Sequential):
    """A user's model, with a bias and a trained norm unless told otherwise."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, bias: bool = True, affine: bool = True):
        linear = nn.Linear(math.prod(input_shape), classes, bias)
        super().__init__(nn.Flatten(), linear, nn.BatchNorm1d(classes, affine=affine))


def test_a_model_of_the_users_is_held_to_the_same_rules() -> None:
    def own(*words: str) -> Spec:
        return Spec.of(compose(["device=cpu", "model=own", "model.name=test_recipe:Net", *words], []))

    with pytest.raises(BadInput, match=r"biases \(1\.bias\).*model\.bias=false does without"):
        own("method=biprop", "model.affine=false")
    with pytest.raises(BadInput, match=r"norms \(2\.weight, 2\.bias\).*model\.affine=false does"):
        own("method=edge_popup", "model.bias=false")
    own("method=biprop", "method.train_norms=true")
    own("method=edge_popup", "model.bias=false", "model.affine=false")
    own("method=dense")


def test_a_convolutional_network_is_held_to_the_same_rules() -> None:
    def convnet(*words: str) -> Spec:
        return Spec.of(compose(["device=cpu", "model=convnet", *words], []))

    with pytest.raises(BadInput, match=r"norm1\.weight.*model\.affine=false"):
        convnet("method=edge_popup", "model.affine=true")
    with pytest.raises(BadInput, match=r"need a norm before them: model\.norm=batch"):
        convnet("method=biprop", "model.activation=sign", "model.norm=null")
    asked = convnet("method=biprop", "model.affine=true", "method.train_norms=true")
    assert asked.network().norm1.weight is not None, "what is typed wins over the recipe"
    assert convnet("method=edge_popup").network().norm1.weight is None


def test_dead_layers_are_allowed_when_asked_for(tmp_path: Path) -> None:
    for name in ("edge_popup", "biprop"):
        words = (f"method={name}", "method.density=.005", "method.allow_dead_layers=true")
        run_seed(spec(*words).config, str(tmp_path / name), 0, lambda kind, value: None)
        tensors, meta = unpack(tmp_path / name / "seed_000" / "level_00.safetensors")
        kept = {layer: int(mask.sum()) for layer, mask in under("mask", tensors).items()}
        assert kept == {"fc1.weight": 4, "fc2.weight": 0, "out.weight": 0}
        assert meta["row"]["test_loss"] == pytest.approx(math.log(10)), "all logits are zero"


def test_a_method_brings_its_recipe_and_what_is_typed_wins() -> None:
    def parts(*words: str) -> tuple[Any, ...]:
        config = spec(*words).config
        return tuple(config[group][name] for group, name in (("model", "init"), ("model", "bias"), ("optim", "name")))

    def lr(*words: str) -> float:
        return spec(*words).config["optim"]["lr"]

    assert parts("method=imp") == ("glorot_normal", True, "adam")
    assert parts("method=edge_popup") == ("signed_constant", False, "sgd")
    assert parts("method=edge_popup", "model.init=kaiming_uniform", "optim=adam") == ("kaiming_uniform", False, "adam")
    assert lr("method=biprop") == 1.0 and lr("method=edge_popup") == 0.1 and lr("method=supermask") == 100.0
    assert lr("method=biprop", "optim=adam") == 1.2e-3, "a rate for SGD is none for Adam"
    assert lr("method=biprop", "optim=sgd") == 1.0, "naming what it is anyway changes nothing"
    assert lr("method=biprop", "optim.lr=.3") == 0.3 and lr("optim.lr=.3", "method=biprop") == 0.3
    assert spec("method=edge_popup").config["optim"]["weight_decay"] == 1e-4
    assert spec("method=edge_popup", "model=mlp").config["model"]["affine"] is False
    assert "recipe" not in spec("method=edge_popup").config["method"]
