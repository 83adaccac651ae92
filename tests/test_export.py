"""An export is its run: of every method, model and precision, loaded by its own loader and brought back into ltx."""

from __future__ import annotations

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
from ltx.export.build import Export
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
