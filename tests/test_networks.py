"""Every network of conf/model: its size, width and layers, what it computes, and that every method runs on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import File, same, spec, trained
from torch import Tensor, nn
from torch.nn import functional as F

from ltx.config.compose import CONF, compose
from ltx.config.names import find, readable
from ltx.config.spec import Spec
from ltx.errors import BadInput
from ltx.methods import control, without
from ltx.models import initialise, units_at
from ltx.report import wording
from ltx.streams import Streams
from ltx.tensors import matrices, norms, under

ALL = sorted(path.stem for path in Path(CONF, "model").glob("*.yaml") if path.stem != "own")
LITTLE = ("convnet", "lenet", "mlp")  # the networks whose values tests/test_models.py holds
FAMILIES = ("conv2", "vgg11", "resnet20", "resnet50")
TINY = {  # of each family a network that trains in no time
    "conv2": ("model=conv2", "model.stages=[[3],[4]]", "model.hidden=[5]"),
    "vgg11": ("model=vgg11", "model.stages=[[3],[4]]"),
    "resnet20": ("model=resnet20", "model.stem_channels=3", "model.blocks=[1,1]", "model.channels=[3,4]"),
    "resnet50": ("model=resnet50", "model.stem_channels=4", "model.blocks=[1,1]", "model.channels=[2,3]"),
}
SHORT = ("optim.steps=4", "optim.batch=40", "seeds=1")


@cache
def content(group: str, name: str) -> dict[str, Any]:
    """Return the values of a yaml."""
    found = yaml.safe_load(Path(CONF, group, f"{name}.yaml").read_text())
    return {key: value for key, value in found.items() if key not in ("defaults", "recipe")}


def network(
    name: str, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10, width: float = 1.0, **changed: Any
) -> nn.Module:
    """Build the network of a yaml on `meta`, or with values where it is narrow."""
    outside = ("name", "init", "channels_last")  # what the run does with a network
    fields = {key: value for key, value in content("model", name).items() if key not in outside} | changed
    with torch.device("cpu" if width < 0.1 else "meta"):
        return find("model", name)(shape, classes, width, **fields)


def shallow(name: str) -> dict[str, Any]:
    """Return what leaves a residual network one block in every stage."""
    blocks = content("model", name).get("blocks")
    return {"blocks": [1] * len(blocks)} if blocks else {}


def sizes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(module.get_parameter(name).shape) for name in matrices(module)}


SMALL, IMAGENET = ((3, 32, 32), 10), ((3, 224, 224), 1000)
PARAMETERS = {  # of open_lth and torchvision; those of Conv-N and VGG-Small summed by hand
    "conv2": (SMALL, 4_301_642),
    "conv4": (SMALL, 2_425_930),
    "conv6": (SMALL, 2_262_602),
    "conv8": (SMALL, 5_278_282),
    "vgg11": (SMALL, 9_231_114),
    "vgg13": (SMALL, 9_416_010),
    "vgg16": (SMALL, 14_728_266),
    "vgg19": (SMALL, 20_040_522),
    "vgg_small": (SMALL, 4_660_096),
    "resnet20": (SMALL, 272_474),
    "resnet32": (SMALL, 466_906),
    "resnet44": (SMALL, 661_338),
    "resnet56": (SMALL, 855_770),
    "resnet110": (SMALL, 1_730_714),
    "resnet18": (IMAGENET, 11_689_512),
    "resnet34": (IMAGENET, 21_797_672),
    "resnet50": (IMAGENET, 25_557_032),
    "wideresnet50": (IMAGENET, 68_883_240),
}


@pytest.mark.parametrize("name", sorted({*ALL} - {*LITTLE}))
def test_a_network_has_the_published_number_of_parameters_at_width_1(name: str) -> None:
    (shape, classes), expected = PARAMETERS[name]
    made = network(name, shape, classes)
    assert sum(p.numel() for p in made.parameters()) == expected
    if depth := "".join(c for c in name if c.isdigit()):  # Conv-N counts convolutions, VGG-N three linear layers too
        along = [n for n in matrices(made) if "conv" in n or n == "stem.weight"]
        assert int(depth) == len(along) + {"conv": 0, "vgg": 3}.get(name.rstrip("0123456789"), 1)


@pytest.mark.parametrize("name", ALL)
def test_width_multiplies_hidden_units_and_neither_inputs_nor_classes_nor_layers(name: str) -> None:
    base = sizes(network(name, (2, 8, 8), 7))
    for width in (0.02, 0.5, 1.3):
        made = sizes(network(name, (2, 8, 8), 7, width))
        assert [*made] == [*base]
        assert {n: shape[0] for n, shape in [*made.items()][:-1]} == {
            n: units_at(shape[0], width) for n, shape in [*base.items()][:-1]
        }
        first, *_, last = made.values()
        assert first[1] == (2 if len(first) == 4 else 2 * 8 * 8) and last[0] == 7


@pytest.mark.parametrize("name", (*LITTLE, *FAMILIES, "vgg_small", "wideresnet50"))
def test_input_and_output_are_the_layer_that_sees_the_data_and_the_one_that_makes_logits(name: str) -> None:
    made = network(name, (2, 8, 8), 7, 0.02)
    names = matrices(made)
    seen: list[str] = []
    for layer in names:
        made.get_submodule(layer.removesuffix(".weight")).register_forward_hook(
            lambda module, inputs, output, layer=layer: seen.append(layer)
        )
    made.eval()(torch.zeros(1, 2, 8, 8))
    assert sorted(seen) == sorted(names), "every matrix is used once"
    assert without(["input"], names) == [n for n in names if n != seen[0]]
    assert without(["output"], names) == [n for n in names if n != seen[-1]]


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 8, 8), (3, 1, 1), (2, 3, 7)], ids=str)
@pytest.mark.parametrize("name", [*FAMILIES, "conv8"])
def test_small_and_odd_images_are_halved_only_while_they_can_be(name: str, shape: tuple[int, ...]) -> None:
    made = network(name, shape, 4, 0.03, **shallow(name))
    for mode in (made.train(), made.eval()):
        logits = mode(torch.randn(3, *shape))
        assert logits.shape == (3, 4) and torch.isfinite(logits).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_no_image_is_refused_in_words(name: str) -> None:
    with pytest.raises(ValueError, match="it needs images, of the shape channels x height x width; model=lenet"):
        network(name, (64,))


def test_stages_are_counted_alike_and_a_residual_network_has_norms() -> None:
    with pytest.raises(ValueError, match=r"model.blocks=\[1, 1\] has 2 stages and model.channels=\[3\] has 1"):
        network("resnet20", blocks=[1, 1], channels=[3])
    with pytest.raises(BadInput, match=r"model\.norm=null is unknown\. Known: batch"):
        spec("model=resnet20", "model.norm=null")
    with pytest.raises(BadInput, match=r"need a norm before them: model\.norm=batch"):
        spec("model=conv2", "model.activation=sign")


def drawn(name: str, shape: tuple[int, ...], **changed: Any) -> tuple[nn.Module, dict[str, Tensor], Tensor]:
    """Return a narrow network with drawn weights, in training mode, its parameters, and images."""
    made = network(name, shape, 4, 0.05, **changed).train()
    initialise(made, "kaiming_normal", Streams(init=1, order=2, augment=3, mask=4, noise=5))
    return made, dict(made.named_parameters()), torch.randn(6, *shape)


def normed(x: Tensor) -> Tensor:
    """Return what a norm makes of a batch at its first weights."""
    axes = (0, 2, 3) if x.ndim == 4 else (0,)
    mean, var = x.mean(axes, keepdim=True), x.var(axes, unbiased=False, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt()


def sign(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


@pytest.mark.parametrize("activation", ["relu", "sign"])
@pytest.mark.parametrize("name", ["conv4", "vgg11"])
def test_a_plain_network_pools_after_relu_and_its_binary_twin_before_norm_and_sign(name: str, activation: str) -> None:
    made, w, x = drawn(name, (2, 32, 32), norm="batch", activation=activation)
    stages, average = content("model", name)["stages"], content("model", name)["average"]
    h, i = x, 0
    for s, stage in enumerate(stages):
        for b in range(len(stage)):
            i += 1
            pool = b == len(stage) - 1 and not (average and s == len(stages) - 1)
            h = F.conv2d(h, w[f"conv{i}.weight"], w[f"conv{i}.bias"], padding=1)
            if activation == "sign":
                h = sign(normed(F.max_pool2d(h, 2) if pool else h))
            else:
                h = normed(h).relu()
                h = F.max_pool2d(h, 2) if pool else h
    h = h.mean((2, 3)) if average else h.flatten(1)
    for i in range(1, 1 + len(content("model", name)["hidden"])):
        h = normed(h @ w[f"fc{i}.weight"].T + w[f"fc{i}.bias"])
        h = sign(h) if activation == "sign" else h.relu()
    assert torch.allclose(made(x), h @ w["out.weight"].T + w["out.bias"], atol=1e-4)


@pytest.mark.parametrize("activation", ["relu", "sign"])
@pytest.mark.parametrize("name", ["resnet20", "resnet50"])
def test_a_residual_network_adds_its_shortcuts_before_the_last_activation_of_a_block(
    name: str, activation: str
) -> None:
    act: Callable[[Tensor], Tensor] = sign if activation == "sign" else F.relu
    made, w, x = drawn(name, (2, 32, 32), blocks=[1, 2], channels=[32, 64], activation=activation)
    if name == "resnet20":
        h = act(normed(F.conv2d(x, w["stem.weight"], padding=1)))
    else:
        h = F.conv2d(x, w["stem.weight"], stride=2, padding=3)
        h = F.max_pool2d(h if activation == "sign" else act(normed(h)), 3, 2, 1)
        h = act(normed(h)) if activation == "sign" else h
    for block, stride in (("block1.1", 1), ("block2.1", 2), ("block2.2", 1)):
        layers = [n for n in w if n.startswith(f"{block}.conv")]
        strided = layers[0] if name == "resnet20" else layers[1]
        y = h
        for layer in layers:
            y = normed(F.conv2d(y, w[layer], stride=stride if layer == strided else 1, padding=w[layer].shape[-1] // 2))
            y = act(y) if layer != layers[-1] else y
        if f"{block}.shortcut.weight" in w:
            h = normed(F.conv2d(h, w[f"{block}.shortcut.weight"], stride=stride))
        h = act(y + h)
    assert torch.allclose(made(x), h.mean((2, 3)) @ w["out.weight"].T + w["out.bias"], atol=1e-4)


@pytest.mark.parametrize("name", (*FAMILIES, "conv8", "vgg_small", "resnet18", "wideresnet50"))
def test_all_layers_of_a_binary_twin_but_the_first_see_plus_and_minus_one(name: str) -> None:
    made = network(name, (1, 16, 16), 4, 0.03, norm="batch", activation="sign", **shallow(name))
    seen: dict[str, Tensor] = {}
    for layer in matrices(made):
        made.get_submodule(layer.removesuffix(".weight")).register_forward_pre_hook(
            lambda module, inputs, layer=layer: seen.setdefault(layer, inputs[0])
        )
    made(torch.randn(4, 1, 16, 16))
    averaged = "resnet" in name or content("model", name)["average"]
    for layer in matrices(made)[1 : -1 if averaged else None]:
        assert {*seen[layer].unique().tolist()} <= {-1.0, 1.0}, layer
    assert seen["out.weight"].abs().max() <= 1, "the mean of plus and minus ones"


@pytest.mark.parametrize(
    ("name", "projected"),
    [
        ("resnet20", ["block2.1", "block3.1"]),
        ("resnet34", ["block2.1", "block3.1", "block4.1"]),
        ("resnet50", ["block1.1", "block2.1", "block3.1", "block4.1"]),
        ("wideresnet50", ["block1.1", "block2.1", "block3.1", "block4.1"]),
    ],
)
def test_a_shortcut_has_weights_only_where_a_block_changes_the_image_or_the_channels(
    name: str, projected: list[str]
) -> None:
    for width in (0.002, 1.0):  # at .002 all layers have one channel, and still the same shortcuts
        names = matrices(network(name, width=width))
        assert [n for n in names if "shortcut" in n] == [f"{block}.shortcut.weight" for block in projected]


@pytest.mark.parametrize("name", FAMILIES)
def test_biases_and_norms_can_be_left_out(name: str) -> None:
    made = network(name, bias=False, affine=False)
    assert [n for n, _ in made.named_parameters()] == matrices(made)
    assert norms(network(name, norm="batch")) and not norms(made)
    if "resnet" not in name:
        assert not norms(network(name, norm=None)) and not [*network(name, norm=None).buffers()]


def test_a_depth_is_a_yaml_alone_and_a_key_names_it() -> None:
    assert find("model", "conv2") is find("model", "conv8") and find("model", "resnet20") is find("model", "resnet50")
    config = compose(["model=resnet20", "width=.5"], [])
    assert readable(config) == "imp-resnet20-digits-w0.5"
    with pytest.raises(BadInput, match=r"model\.name=conv5 is unknown; did you mean 'conv"):
        find("model", "conv5")


def test_pictures_name_networks_as_papers_do() -> None:
    assert all(wording.MODELS[name].lower().replace("-", "") == name.replace("_", "") for name in ALL)
    found = spec("model=resnet20", "method=dense")
    assert wording.model(found) == "ResNet-20"
    assert wording.model(tiny("resnet20")) == "ResNet-20 (stem channels 3, blocks [1, 1], channels [3, 4])"


def test_the_list_of_models_sorts_depths_and_counts_many_layers(ltx: Callable[..., Any]) -> None:
    assert (said := ltx("list", "models")).code == 0
    assert said.out.index("resnet20") < said.out.index("resnet110")
    assert "22 layers of 16 to 64 units, 272,186 parameters, 270,608 prunable" in said.out


# Every method and every control, trained on the digits.


@cache
def base(name: str) -> dict[str, Any]:
    """Return a short run of a family's tiny network, without biases and affine norms, so that searches take it."""
    return compose(["device=cpu", *SHORT, *TINY[name], "model.bias=false", "model.affine=false"], [])


def tiny(name: str, method: str = "dense", **changed: Any) -> Spec:
    """Return a short run of a method on a family's tiny network."""
    changed |= {"levels": 1} if method == "imp" else {"freeze_every": 2} if method == "gem_miner" else {}
    return Spec.of({**base(name), "method": content("method", method) | changed})


# A control needs a trunk, and what is sampled takes no kernels: tests/test_ticket_sample.py, test_ticket_split.py.
ELSEWHERE = ("control", "ticket_sample", "ticket_split")
METHODS = sorted(path.stem for path in Path(CONF, "method").glob("*.yaml") if path.stem not in ELSEWHERE)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_method_finds_its_ticket_in_every_family(name: str, method: str, tmp_path: Path) -> None:
    found = tiny(name, method)
    tensors, meta = trained(found, tmp_path)[-1]
    mask, begin, end = (under(part, tensors) for part in ("mask", "begin", "end"))
    names = matrices(found.network(device="meta"))
    assert {*mask} == {*without(found.config["method"].get("exclude", []), names)}
    row = meta["row"]
    assert row["kept"] == sum(int(m.sum()) for m in mask.values()) and math.isfinite(row["test_loss"])
    moved = {n for n in names if not torch.equal(begin[n], end[n])}
    if found.method.trains == "scores":
        assert not moved and under("score", tensors).keys() == mask.keys()
        assert any(m.any() and not m.all() for m in mask.values())
    else:
        assert moved == {*names}, "every layer learns"
        assert all(torch.equal(end[n][~m], begin[n][~m]) for n, m in mask.items()), "what is pruned never moves"
        assert method == "dense" or row["kept"] < row["prunable"]


@pytest.mark.parametrize("criterion", ["random", "erk", "magnitude", "snip", "grasp", "synflow"])
def test_every_criterion_at_initialisation_ranks_the_layers_of_a_residual_network(
    criterion: str, tmp_path: Path
) -> None:
    found = tiny("resnet50", "at_init", criterion=criterion, density=0.5)
    tensors, meta = trained(found, tmp_path)[-1]
    assert meta["row"]["kept"] == pytest.approx(0.5 * meta["row"]["prunable"], abs=len(under("mask", tensors)))
    scores = under("score", tensors).values()
    assert scores and all(torch.isfinite(s).all() and s.any() for s in scores)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_recipe_makes_a_search_of_every_family_and_its_binary_twin(name: str) -> None:
    asked = spec("method=biprop", *TINY[name], "model.norm=batch", "model.activation=sign", *SHORT)
    made = asked.network(streams=asked.streams(0))
    assert [n for n, _ in made.named_parameters()] == matrices(made)
    assert made(asked.data.train.x[:4]).shape == (4, 10)


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, File]:
    """Train an IMP chain of one level on a tiny ResNet."""
    found = tiny("resnet20", "imp")
    folder = tmp_path_factory.mktemp("trunk")
    config = {**found.config, "root": str(folder)}
    levels = trained(Spec.of(config), Spec.of(config).directory)
    return folder, levels[1]


@pytest.mark.parametrize("kind", control.KINDS)
def test_every_control_stands_on_a_residual_network(kind: str, trunk: tuple[Path, File], tmp_path: Path) -> None:
    root, (ticket, _) = trunk
    below = {**tiny("resnet20", "imp").config, "root": str(root)}
    method = content("method", "control") | {"kind": kind, "trunk_level": 1, "trunk_seed": 0}
    found = Spec.of({**below, "method": method, "trunk": below})
    ((tensors, meta),) = trained(found, found.directory)
    masks = under("mask", ticket), under("mask", tensors)
    assert [int(m.sum()) for m in masks[0].values()] == [int(m.sum()) for m in masks[1].values()]
    assert math.isfinite(meta["row"]["test_loss"])
    changed = {part for part in ("begin", "mask", "end") if not same(under(part, ticket), under(part, tensors))}
    expected: dict[str, set[str]] = {"ticket": set(), "data_order": {"end"}, "untrained": {"end"}, "own_init": set()}
    expected["transport"] = set()  # from a seed to itself
    expected |= {name: {"begin", "mask", "end"} for name in ("shuffle", "random", "invert")}
    assert changed == expected.get(kind, {"begin", "end"})
