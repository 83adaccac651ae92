"""An export is its run: of every method, model and precision, loaded by its own loader and brought back into ltx."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from exports import accuracy, known, loaded, logits, of_run, program, written
from helpers import same
from safetensors.torch import load
from torch import nn

from ltx import load_ticket
from ltx.config.names import CONF
from ltx.errors import BadInput
from ltx.export.build import Export
from ltx.export.layers import constructor, fields
from ltx.identity.measure import Known
from ltx.tensors import under

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml") if path.stem != "own")
SMALL = ("model.hidden=[12,8]",)
IMP = ("method=imp", "method.fraction=.6")
SAMPLES = ("method.levels=0", "method.examples=20")


def shallow(name: str) -> tuple[str, ...]:
    """Return what leaves a residual network one block in each stage."""
    blocks = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text()).get("blocks")
    return (f"model.blocks={[1] * len(blocks)}",) if blocks else ()


OF_METHODS = {
    "control": ("method.kind=shuffle", "trunk={method:imp,method.levels:1}"),
    "ticket_sample": SAMPLES,
    "ticket_split": (*SAMPLES, "method.masks=8", "method.sweeps=1"),
}
BINARY = ("method=biprop", "model=convnet", "width=.25", "model.activation=sign")
FORMS = {
    "mixed": (*SMALL, *IMP, "trainer.precision=bf16-mixed"),
    "reduced": (*SMALL, *IMP, "trainer.precision=bf16-true"),
    "mixed images": ("model=conv2", "width=.1", "method=edge_popup", "trainer.precision=bf16-mixed"),
    "reduced images": ("model=resnet20", "width=.25", *IMP, "trainer.precision=bf16-true"),
    "channels innermost": ("model=convnet", "width=.25", *IMP, "model.channels_last=true"),
    "binary": BINARY,
    "binary with trained norms": (*BINARY, "model.affine=true", "method.train_norms=true"),
    "binary mixed": (*BINARY, "trainer.precision=bf16-mixed"),
    "binarised": (*SMALL, "method=control", "method.binarise=true", "trunk={method:imp,method.levels:1}"),
    "next to a trunk": (*SMALL, "method=dense", "data.shift=1", "trunk={method:dense,data.shift:0}"),
}
CASES = {name: (*SMALL, f"method={name}", *OF_METHODS.get(name, ())) for name in METHODS} | FORMS
CASES |= {name: (f"model={name}", "width=.04", *IMP, "optim.steps=1", *shallow(name)) for name in MODELS}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Known, Export, Path]:
    """A ticket of every method, model and form, its export, and the folder that this is in."""
    folder = tmp_path_factory.mktemp("case")
    ticket = known(folder, *CASES[request.param])
    export = Export.of(ticket)
    return ticket, export, written(export, folder / "export")


def test_what_the_loader_makes_has_the_logits_of_the_run_to_the_bit(case: tuple[Known, Export, Path]) -> None:
    ticket, _, folder = case
    network = loaded(folder)
    outputs = logits(network, ticket)
    assert torch.equal(outputs, of_run(ticket)) and outputs.dtype == of_run(ticket).dtype
    assert accuracy(outputs, ticket) == pytest.approx(ticket.accuracy, abs=1e-9), "that of the run's row"
    assert same(dict(network.state_dict()), dict(ticket.module.state_dict())) and not network.training


def test_what_is_brought_back_is_the_ticket(case: tuple[Known, Export, Path]) -> None:
    ticket, export, folder = case
    back = load_ticket(folder, trust=True)
    assert (back.key, back.seed, back.level) == (ticket.run, ticket.seed, ticket.level)
    assert same(back.weights, ticket.ticket.weights) and same(back.mask, ticket.ticket.mask)
    assert back.density == ticket.ticket.density and back.row == export.row
    assert back.spec.key == ticket.run, "the config that is left makes the same run"
    assert same(dict(back.module().state_dict()), dict(ticket.module.state_dict()))
    assert back.score == {}, "no file of scores was written"


def test_the_compressed_network_computes_the_same_up_to_rounding(case: tuple[Known, Export, Path]) -> None:
    ticket, export, folder = case
    assert export.why_whole == "", "the network's units are known"
    outputs, expected = logits(loaded(folder, compressed=True), ticket).float(), of_run(ticket).float()
    close = {"32-true": 1e-5}.get(ticket.spec.form.precision, 0.05)
    assert (outputs - expected).abs().max() <= close * expected.abs().max().clamp(min=1e-3)


def test_kept_weights_are_in_the_file_alone_and_masks_take_a_bit_each(case: tuple[Known, Export, Path]) -> None:
    ticket, export, _ = case
    tensors = load(export.content)
    sizes = {kind: {n: t.numel() for n, t in under(kind, tensors).items()} for kind in ("mask", "values", "signs")}
    for name, mask in ticket.ticket.mask.items():
        kept = int(mask.sum())
        if name in sizes["signs"]:
            assert sizes["signs"][name] == -(-kept // 8) and tensors[f"alpha/{name}"].numel() == 1
        elif kept < mask.numel():
            assert sizes["values"][name] == kept
        assert name not in sizes["mask"] or sizes["mask"][name] == -(-mask.numel() // 8)
        assert (name in sizes["mask"]) == (kept < mask.numel())


@pytest.mark.parametrize("words", [("method=biprop",), ("method=edge_popup",)], ids=str)
def test_a_ticket_of_one_magnitude_is_written_as_signs(words: tuple[str, ...], tmp_path: Path) -> None:
    ticket = known(tmp_path, *SMALL, *words)
    tensors = Export.of(ticket).tensors
    assert set(under("signs", tensors)) == set(ticket.ticket.mask) and not under("values", tensors)
    for name, mask in ticket.ticket.mask.items():
        kept = ticket.ticket.weights[name][mask]
        assert torch.equal(tensors[f"alpha/{name}"], kept[:1].abs())


def test_a_ticket_of_many_magnitudes_is_not(tmp_path: Path) -> None:
    ticket = known(tmp_path, *SMALL, *IMP)
    assert not under("signs", Export.of(ticket).tensors)


def test_weights_that_a_method_leaves_beside_its_mask_stay(tmp_path: Path) -> None:
    Path("leaving.py").write_text(
        "from dataclasses import dataclass\nfrom ltx.methods import at_init\n\n\n@dataclass(frozen=True)\n"
        "class Method(at_init.Method):\n    def effective(self, weights, scores, gate, done=1.0, noise=None):\n"
        "        return weights | {name: weights[name] * (0.5 + gate[name]) for name in gate}\n"
    )
    ticket = known(tmp_path, *SMALL, "method=at_init", "method.name=leaving:Method", "method.criterion=random")
    weight, mask = (tensors["fc1.weight"] for tensors in (ticket.ticket.weights, ticket.ticket.mask))
    assert weight[~mask].any()
    folder = written(Export.of(ticket), tmp_path / "export")
    assert torch.equal(logits(loaded(folder), ticket), of_run(ticket))
    assert same(load_ticket(folder).weights, ticket.ticket.weights)


def test_a_loaded_network_is_trained_on_as_any_other(tmp_path: Path) -> None:
    ticket = known(tmp_path, "model=convnet", "width=.25", *IMP)
    folder = written(Export.of(ticket), tmp_path / "export")
    network, x, y = loaded(folder).train(), ticket.spec.data.train.x[:200], ticket.spec.data.train.y[:200]
    keep = program(folder).kept(folder)
    assert same(keep, ticket.ticket.mask)
    optimiser, losses = torch.optim.SGD(network.parameters(), 0.05), []
    for _ in range(5):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(network(x), y)
        loss.backward()
        for name, mask in keep.items():
            network.get_parameter(name).grad *= mask
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert not any(network.get_parameter(name)[~mask].any() for name, mask in keep.items())
    again = loaded(folder)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(x), network.eval()(x))


# Networks of a user's own.

NETWORKS = '''
import torch
from torch import nn
from torch.nn import functional as F
from ltx.symmetry import Units


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x + x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class Layers(nn.Module):
    """Layers of many kinds, a parameter, a buffer and a constant of its own, and arithmetic of its own."""

    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding="same", padding_mode="circular"), nn.GroupNorm(2, 4), nn.GELU(),
            nn.ConvTranspose2d(4, 4, 2, stride=2), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.AvgPool2d(2),
        )
        self.bend = nn.PReLU()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 256))
        self.register_buffer("shift", torch.linspace(-0.1, 0.1, 256))
        self.register_buffer("sine", torch.linspace(0, 3, 256).sin(), persistent=False)
        self.drop, self.norm, self.out = nn.Dropout(0.3), nn.LayerNorm(256), nn.Linear(256, classes)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        h = self.bend(self.body(x)).view(x.size(0), -1) * self.scale + self.shift + self.sine
        h = Double.apply(h) * torch.tensor(0.5)
        return self.out(self.drop(self.norm(h)))


class Attention(nn.Module):
    """Layers of torch.nn that do not show how they are made."""

    def __init__(self, classes):
        super().__init__()
        self.read, self.look = nn.Linear(8, 16), nn.MultiheadAttention(16, 4, batch_first=True, bias=False)
        layer = nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True)
        self.block = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16, eps=1e-6))
        self.out = nn.Linear(128, classes)

    def forward(self, x):
        rows = self.read(x.flatten(1, 2))
        seen, _ = self.look(rows, rows, rows)
        return self.out(self.block(rows + seen).flatten(1))


class Decides(nn.Module):
    """Looks at a shape to decide, so that only its operations can be written."""

    def __init__(self, classes):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 64))
        self.register_buffer("sine", torch.linspace(0, 3, 64).sin(), persistent=False)
        self.fc, self.norm, self.out = nn.Linear(64, 20), nn.BatchNorm1d(20), nn.Linear(20, classes)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        x = x.flatten(1) * self.scale + self.sine
        if x.shape[1] != 64:
            raise ValueError("pixels")
        return self.out(F.dropout(self.norm(self.fc(x)).relu(), 0.1, self.training))


class Depends(nn.Module):
    """Does something else for other values, which no graph can say."""

    def __init__(self, classes):
        super().__init__()
        self.one, self.other = nn.Linear(64, classes), nn.Linear(64, classes)

    def forward(self, x):
        x = x.flatten(1)
        return self.one(x) if x.sum() > 0 else self.other(x)


class Counts(nn.Module):
    """Does something else each time it is called, so that what is written down of one call is false."""

    def __init__(self, classes):
        super().__init__()
        self.fc, self.out, self.calls = nn.Linear(64, 9), nn.Linear(9, classes), 0

    def forward(self, x):
        self.calls += 1
        return self.out(self.fc(x.flatten(1)).relu()) * self.calls


class Chain(nn.Module):
    """Says of its units what they are, with a norm over them that no table holds."""

    def __init__(self, classes, norm: str = ""):
        super().__init__()
        self.fc1, self.fc2, self.out = nn.Linear(64, 9), nn.Linear(9, 7), nn.Linear(7, classes)
        self.norm = nn.LayerNorm(9, elementwise_affine=False) if norm == "layer" else nn.Identity()
        self.normed = norm == "any size"

    def forward(self, x):
        x = self.norm(self.fc1(x.flatten(1)))
        x = (x - x.mean(1, keepdim=True)) if self.normed else x
        return self.out(self.fc2(x.relu()).relu())

    def symmetry(self):
        return [Units(("fc1",), ("fc2",), rescales=False), Units(("fc2",), ("out",))]
'''


def of_ones_own(root: Path, name: str, *words: str) -> Known:
    Path("exportnets.py").write_text(NETWORKS)
    own = ("model=own", f"model.name=exportnets:{name}")
    return known(root, *own, "method=at_init", "method.criterion=random", *words)


@pytest.mark.parametrize("name", ["Layers", "Attention", "Decides", "Chain"])
def test_a_network_of_ones_own_leaves_as_layers_or_else_as_operations(name: str, tmp_path: Path) -> None:
    ticket = of_ones_own(tmp_path, name)
    export = Export.of(ticket)
    folder = written(export, tmp_path / "export")
    assert torch.equal(logits(loaded(folder), ticket), of_run(ticket))
    with torch.no_grad():
        one = ticket.spec.data.test.x[:1]
        assert torch.equal(loaded(folder)(one), ticket.module(one)), "a batch of any size"
    assert ("nn.Linear(" in export.program) == (name != "Decides") and "exportnets" not in export.program
    assert loaded(folder).state_dict().keys() == ticket.module.state_dict().keys()
    assert (export.why_whole == "") == (name == "Chain")
    assert torch.allclose(logits(loaded(folder, True), ticket), of_run(ticket), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "said"),
    [("Depends", r"it cannot be written \(\S*exportnets.py, line \d+: "), ("Counts", "its logits are others")],
)
def test_a_network_that_no_graph_can_say_is_refused_with_both_reasons(name: str, said: str, tmp_path: Path) -> None:
    ticket = of_ones_own(tmp_path, name)
    with pytest.raises(BadInput) as refused:
        Export.of(ticket)
    text = str(refused.value)
    assert re.search(f"as layered {said}.*; as operations it", text) and len(text) < 800


@pytest.mark.parametrize(
    ("norm", "said"), [("", ""), ("layer", "does not take fewer units"), ("any size", "its outputs change when units")]
)
def test_units_stay_where_a_table_does_not_say_all_that_is_done_to_them(norm: str, said: str, tmp_path: Path) -> None:
    words = ("method.density=.08", "method.allow_dead_layers=true", "method.exclude=[]")
    export = Export.of(of_ones_own(tmp_path, "Chain", f"model.norm='{norm}'", *words))
    assert (export.removed > 0) == (norm == "") and said in export.why_whole


PATCHED = nn.ReLU()
PATCHED.forward = torch.tanh


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 6, (3, 1), stride=2, padding="valid", dilation=2, groups=3, bias=False, padding_mode="reflect"),
        nn.BatchNorm1d(7, eps=1e-3, momentum=None, affine=False),
        nn.LayerNorm((3, 4), bias=False),
        nn.LSTM(3, 4, num_layers=2, batch_first=True, dropout=0.1),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.MultiheadAttention(8, 2, kdim=3, vdim=5, add_bias_kv=True, bias=False),
        nn.TransformerEncoderLayer(8, 2, 16, 0.2, "gelu", 1e-6, norm_first=True, bias=False),
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 3, enable_nested_tensor=False),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_is_made_again_by_the_call_that_is_written(layer: nn.Module) -> None:
    again = eval(constructor(layer), {"nn": nn})
    assert repr(again) == repr(layer) and fields(again) == fields(layer)


HIDING = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)  # its representation lacks the last one


@pytest.mark.parametrize(
    "layer",
    [PATCHED, HIDING, nn.Sequential(nn.ReLU()), nn.TransformerDecoderLayer(8, 2)],
    ids=["patched", "hiding", "composed", "decoder"],
)
def test_a_layer_that_no_call_makes_is_none(layer: nn.Module) -> None:
    with pytest.raises(ValueError):
        constructor(layer)


def test_an_argument_that_has_its_usual_value_is_not_written() -> None:
    assert constructor(nn.BatchNorm2d(3)) == "nn.BatchNorm2d(3)"
