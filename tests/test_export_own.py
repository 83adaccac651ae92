"""Networks of a user's own leave as plain torch: as their layers, else as their operations, else not at all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from exports import known, loaded, logits, of_run, written
from torch import nn

from ltx.errors import BadInput
from ltx.export.build import Export
from ltx.export.layers import constructor, fields
from ltx.identity.measure import Known

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


class Compute(nn.Module):
    """Has a layer whose name could be one that the loader needs itself."""

    def __init__(self, classes):
        super().__init__()
        self.compute, self.load = nn.Linear(64, 9), nn.Linear(9, classes)

    def forward(self, x):
        return self.load(self.compute(x.flatten(1)).relu())


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


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_a_layer_may_have_the_name_of_what_a_loader_does(precision: str, tmp_path: Path) -> None:
    ticket = of_ones_own(tmp_path, "Compute", f"trainer.precision={precision}")
    folder = written(Export.of(ticket), tmp_path / "export")
    assert torch.equal(logits(loaded(folder), ticket), of_run(ticket))


@pytest.mark.parametrize(
    ("name", "said"),
    [("Depends", r"it cannot be written \(\S*exportnets.py, line \d+: "), ("Counts", "its logits are others")],
)
def test_a_network_that_no_graph_can_say_is_refused_with_both_reasons(
    name: str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ticket = of_ones_own(tmp_path, name)
    capfd.readouterr()
    with pytest.raises(BadInput) as refused:
        Export.of(ticket)
    text = str(refused.value)
    assert capfd.readouterr() == ("", ""), "what torch says of it is in the message"
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
