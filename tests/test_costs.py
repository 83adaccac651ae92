"""Multiply-adds and bits of a level against closed forms, and never a number where it cannot be known."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from helpers import spec, trained
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ltx.analysis.costs import Counts, applications, bits, multiply_adds, positions
from ltx.models.mlp import Model
from ltx.runs.row import Costs
from ltx.store.files import pack, unpack
from ltx.tensors import Tensors, matrices, under


def applied(network: nn.Module, *shape: int, device: str = "cpu") -> Counts:
    """At how many places of one example the network applies its matrices."""
    return applications(network, torch.zeros(2, *shape, device=device), matrices(network))


def dense(network: nn.Module, found: Counts) -> int | None:
    return multiply_adds({name: network.get_parameter(name).numel() for name in found}, found)


class Attention(nn.Module):
    """Attention of a text to itself, or to its first words."""

    def __init__(self, words: int | None = None, **options: Any):
        super().__init__()
        self.attention, self.words = nn.MultiheadAttention(8, 2, batch_first=True, **options), words

    def forward(self, x: Tensor) -> Tensor:
        seen = x[:, : self.words, : self.attention.kdim]
        return self.attention(x, seen, seen)[0]


class Own(nn.Module):
    """A matrix of one's own: `how` it is applied."""

    def __init__(self, how: str):
        super().__init__()
        self.fc, self.how = nn.Linear(4, 4, bias=False), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "twice":
            return self.fc(self.fc(x))
        if self.how == "functional":
            return nn.functional.linear(x, self.fc.weight)
        if self.how == "by hand":
            return self.fc(x) @ self.fc.weight.T
        if self.how == "shape alone":
            return self.fc(x) * self.fc.weight.shape[0]
        return x


class LSTM(nn.Module):
    def __init__(self, **options: Any):
        super().__init__()
        self.rnn = nn.LSTM(5, 7, 2, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0] if self.rnn.batch_first else self.rnn(x.transpose(0, 1))[0]


class Unrolled(nn.Module):
    """A recurrent cell over every second row."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 6)
        for t in range(0, x.shape[1], 2):
            h = self.cell(x[:, t], h)
        return h


def test_lenet_has_as_many_multiply_adds_as_weights() -> None:
    network = Model(input_shape=(784,), classes=10, width=1.0, hidden=[300, 100], norm=None, bias=True)
    assert dense(network, applied(network, 784)) == 784 * 300 + 300 * 100 + 100 * 10 == 266_200


@pytest.mark.parametrize("name", ["lenet", "conv4", "resnet20", "resnet50", "convnet", "mlp", "vgg11"])
def test_dense_networks_have_half_the_operations_that_torch_counts(name: str) -> None:
    found = spec(f"model={name}", "data=canvas")
    network = found.network("meta")
    count = dense(network, applications(network, found.facts.zeros(2, "meta"), matrices(network)))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(found.facts.zeros(1, "meta"))
    assert count == counter.get_total_flops() / 2 and network.training is False


@pytest.mark.parametrize(
    ("network", "shape", "expected"),
    [
        (nn.Conv2d(4, 6, 3), (4, 5, 5), 6 * 4 * 9 * 9),
        (nn.Conv2d(4, 6, 3, groups=2, padding=1, stride=2), (4, 6, 6), 6 * 2 * 9 * 9),
        (nn.Conv1d(4, 4, 3, groups=4, padding="same"), (4, 11), 4 * 3 * 11),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 4, 4), 3 * 2 * 9 * 16),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5), 4 * 6 * 9 * 25),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 5), 4 * 3 * 9 * 25),
        (nn.Linear(5, 3), (7, 5), 5 * 3 * 7),
        (LSTM(batch_first=True), (9, 5), (4 * 7 * (5 + 7) + 4 * 7 * (7 + 7)) * 9),
        (LSTM(bidirectional=True), (9, 5), 2 * (4 * 7 * (5 + 7) + 4 * 7 * (14 + 7)) * 9),
        (LSTM(batch_first=True, proj_size=3), (9, 5), (28 * (5 + 3) + 28 * (3 + 3) + 2 * 7 * 3) * 9),
        (Unrolled(), (9, 5), 3 * 6 * (5 + 6) * 5),
        (Attention(), (9, 8), (3 * 64 + 64) * 9),
        (Attention(words=4, kdim=6, vdim=6), (9, 8), 64 * 9 + 2 * 48 * 4 + 64 * 9),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (9, 8), (4 * 64 + 2 * 8 * 16) * 9),
        (Own("twice"), (4,), 32),
        (Own("functional"), (4,), 16),
        (Own("shape alone"), (4,), 16),
    ],
)
def test_layers_have_the_multiply_adds_of_their_closed_forms(
    network: nn.Module, shape: tuple[int, ...], expected: int
) -> None:
    assert dense(network, applied(network, *shape)) == expected


@pytest.mark.parametrize("network", [Own("by hand"), Own("never"), Attention(words=4)])
def test_what_cannot_be_seen_is_no_number(network: nn.Module) -> None:
    found = applied(network, 4) if isinstance(network, Own) else applied(network, 9, 8)
    assert None in found.values() and dense(network, found) is None


def test_only_kept_weights_are_multiplied() -> None:
    assert multiply_adds({"a": 3, "b": 5}, {"a": 10, "b": 1}) == 35


def test_positions_are_a_bitmap_or_a_list_whichever_is_shorter() -> None:
    assert [positions(k, 1000) for k in (1000, 999, 100, 99, 1, 0)] == [0, 1000, 1000, 990, 10, 0]
    assert positions(0, 1) == 0 and positions(1, 1) == 0


def test_bits_are_kept_values_their_places_and_everything_else() -> None:
    keep = torch.zeros(1000, dtype=torch.bool)
    keep[:50] = True
    rest = {"bias": torch.zeros(7), "count": torch.zeros((), dtype=torch.int64), "half": torch.zeros(3).bfloat16()}
    other = 7 * 32 + 64 + 3 * 16
    assert bits({"w": keep}, rest, 32, lambda kept, width: kept * width) == 50 * 32 + 500 + other
    assert bits({"w": torch.ones(10, dtype=torch.bool)}, {}, 16, lambda kept, width: kept * width) == 160


METHODS = {
    "imp": (("method=imp", "method.levels=1"), lambda k: 32 * k),
    "imp in bf16": (("method=imp", "method.levels=1", "trainer.precision=bf16-true"), lambda k: 16 * k),
    "edge_popup": (("method=edge_popup", "method.density=.1", "method.freeze=true"), lambda k: 32 * k),
    "biprop": (("method=biprop", "method.density=.1", "method.freeze=true"), lambda k: k + 32),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_columns_of_a_row_follow_from_its_file(name: str, tmp_path: Path) -> None:
    words, values = METHODS[name]
    found = spec(*words, "model.hidden=[12,8]", "optim.steps=12", "model.bias=true")
    for tensors, about in trained(found, tmp_path):
        mask, end = under("mask", tensors), under("end", tensors)
        sizes = {n: (int(m.sum()), m.numel()) for n, m in mask.items()}
        outside = sum(8 * t.element_size() * t.numel() for n, t in end.items() if n not in mask)
        places = {n: 0 if k == of else min(of, k * math.ceil(math.log2(of))) for n, (k, of) in sizes.items()}
        assert about["row"]["bits"] == sum(values(k) + places[n] for n, (k, _) in sizes.items()) + outside
        kept = {n: sizes[n][0] if n in sizes else end[n].numel() for n in ("fc1.weight", "fc2.weight", "out.weight")}
        assert about["row"]["macs"] == sum(kept.values())


def test_the_summary_has_both_columns_and_leaves_one_empty_that_is_not_known(
    ltx: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hidden.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, input_shape, classes):\n"
        "        super().__init__()\n        self.fc = nn.Linear(64, classes)\n\n"
        "    def forward(self, x):\n        return x.flatten(1) @ self.fc.weight.T\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ("method=dense", "model=own", "model.name=hidden:Net", "optim.steps=5", "seeds=1")
    folder = ltx("run", *words).folder
    (row,) = csv.DictReader((folder / "summary.csv").open())
    assert row["macs"] == "" and int(row["bits"]) == 32 * 650
    assert ltx("show", folder.name).code == 0


def test_levels_of_the_version_before_are_adopted_and_have_blank_cells(ltx: Any, finished: Path) -> None:
    first = finished / "seed_000" / "level_00.safetensors"
    tensors, meta = unpack(first)
    meta["row"] = {name: value for name, value in meta["row"].items() if name not in ("macs", "bits")}
    first.write_bytes(pack(tensors, meta))
    (finished / "seed_000" / "level_01.safetensors").unlink()
    before = first.read_bytes()
    assert ltx("run", *TINY).code == 0
    rows = [*csv.DictReader((finished / "summary.csv").open())]
    assert first.read_bytes() == before
    assert [bool(row["macs"]) and bool(row["bits"]) for row in rows] == [False, True, True, True]


def test_layers_are_looked_at_once_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    found = spec("model.hidden=[12,8]")
    network = found.network()
    costs = Costs(found, network)
    mask: Tensors = {n: torch.ones_like(network.get_parameter(n), dtype=torch.bool) for n in matrices(network)}
    first = costs.columns(mask)
    monkeypatch.setattr("ltx.runs.row.applications", None)
    assert costs.columns(mask) == first == {"macs": 64 * 12 + 12 * 8 + 80, "bits": 32 * (64 * 12 + 12 * 8 + 80 + 30)}
