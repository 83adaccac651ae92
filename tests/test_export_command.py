"""`ltx export RUN DIR` and `ltx show RUN --time`: what they write, print and refuse; the folder works without ltx."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Result, call, only, tree
from exports import accuracy, known, logits, of_run, program
from helpers import same
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ltx import load_ticket, open_run
from ltx.export import timing
from ltx.identity.measure import Known
from ltx.store.files import unpack

Ltx = Callable[..., Result]
NETWORK = ("device=cpu", "model.hidden=[40,20]", "workers=0", "optim.steps=60")
ONE_BIT = ("method=biprop", "seeds=2")
TICKET, SCORES = "ticket.safetensors", "scores.safetensors"


@pytest.fixture(scope="module")
def one_bit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a biprop run of two seeds."""
    root = tmp_path_factory.mktemp("biprop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        assert call("run", *NETWORK, *ONE_BIT, root=root) == 0
    return only(root)


@pytest.fixture
def exported(ltx: Ltx, one_bit: Path) -> Path:
    """The export of its first seed."""
    assert ltx("export", str(one_bit), "ticket").code == 0
    return Path("ticket")


# Without ltx.

PROCESS = """
import sys


class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ltx", "numpy"):
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Wall())
import re
import torch
from safetensors.torch import load_file

torch.set_num_threads(1)
x = load_file("../examples.safetensors")["x"]
[block] = re.findall("```python\\n(.*?)```", open("README.md").read(), re.DOTALL)
exec(block.replace("torch.zeros(1, 1, 8, 8)", "x"))
with torch.no_grad():
    torch.save({"logits": network(x), "small": small(x)}, "../logits.pt")
assert torch.equal(logits, network(x)) and logits.requires_grad
print(sorted(name for name in sys.modules if name.partition(".")[0] == "ltx"))
"""


def test_a_one_bit_ticket_classifies_digits_in_a_process_without_ltx(exported: Path, one_bit: Path) -> None:
    ticket = Known.of(open_run(one_bit))
    save_file({"x": ticket.spec.data.test.x.contiguous()}, "examples.safetensors")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROCESS], cwd=exported, env=clean, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip() == "[]"
    found = torch.load("logits.pt", weights_only=True)
    torch.set_num_threads(1)
    assert torch.equal(found["logits"], of_run(ticket))
    assert accuracy(found["logits"], ticket) == pytest.approx(ticket.accuracy, abs=1e-9) and ticket.accuracy > 0.7
    assert torch.allclose(found["small"], found["logits"], atol=1e-5)
    matrices = sum(weight.numel() for weight in ticket.ticket.mask.values())
    content = sum(t.numel() * t.element_size() for t in load_file(exported / TICKET).values())
    assert content < 0.3 * matrices, "two bits a weight, where dense it takes 32"


def test_the_loader_says_what_it_is(exported: Path, one_bit: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(exported / "load.py"), run_name="__main__")
    said, row = capfd.readouterr().out, open_run(one_bit).summary.loc[0]
    assert f"{one_bit.name}, seed 0, level 0" in said and f"{row['kept']:,.0f} of 3,560 weights kept" in said
    assert f"{row['test_accuracy']:.4f}" in said and "(fc1): Linear" in said


def test_the_programs_of_the_page_work(exported: Path, one_bit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    module = Known.of(open_run(one_bit)).module
    for block in blocks:
        names: dict[str, Any] = {}
        exec(block, names)
        monkeypatch.delitem(sys.modules, "load", raising=False)
        for network in (names[name] for name in ("network", "small", "module") if name in names):
            assert torch.allclose(network(names["x"]), module(names["x"]), atol=1e-5)
    assert names["ticket"].key == one_bit.name


# What it writes and prints.


def test_an_export_has_its_files_and_says_what_it_takes(ltx: Ltx, one_bit: Path) -> None:
    result = ltx("export", str(one_bit), "deep/ticket")
    assert result.code == 0, result.err
    assert set(tree(Path("deep"))) == {
        "ticket",
        *(f"ticket/{name}" for name in (TICKET, SCORES, "load.py", "README.md")),
    }
    for words in (
        "seed 0, level 0",
        "batch of 1",
        "batch of 256",
        "compressed",
        f"export: {Path('deep/ticket').resolve()}",
    ):
        assert words in result.out
    size, dense = Path("deep/ticket", TICKET).stat().st_size, 4 * (64 * 40 + 40 * 20 + 20 * 10)
    card = Path("deep/ticket/README.md").read_text()
    for text in (result.out, card):
        assert re.search(rf"bytes\W+{dense:,}\W+{size:,}", text)
    summary = open_run(one_bit).summary
    assert f"Test accuracy: {summary['test_accuracy'][0]:.4f}. Over the 2 seeds of its run: " in card
    assert f"{summary['test_accuracy'].mean():.4f} [" in card
    assert one_bit.name in card and "torch 2" in card and "# Biprop tickets of LeNet-40-20 on 8×8 digits" in card
    command = re.search(r"```sh\nltx (.*)\n```", card)
    assert command and "method=biprop" in command[1] and "'seeds=[0,1]'" in command[1]


def test_the_command_on_the_card_is_that_of_the_run(ltx: Ltx, exported: Path, one_bit: Path) -> None:
    command = re.search(r"```sh\nltx (.*)\n```", (exported / "README.md").read_text())
    assert command
    result = ltx(*shlex.split(command[1]), f"root={one_bit.parents[1]}", "--dry-run")
    assert one_bit.name in result.out and result.code == 0


def test_a_seed_and_a_level_are_chosen_as_in_compare(ltx: Ltx, finished: Path) -> None:
    assert ltx("export", f"{finished.name}:1:0", "dense").code == 0
    assert ltx("export", f"{finished.name}:1", "sparse").code == 0
    assert ltx("export", finished.name, "first").code == 0
    found = [load_ticket(name) for name in ("dense", "sparse", "first")]
    assert [(one.seed, one.level) for one in found] == [(1, 0), (1, 1), (0, 1)]
    assert found[0].density == 1 and same(found[1].weights, open_run(finished).ticket(1, 1).weights)
    assert ltx("export", f"{finished.name}:7", "x").code == ltx("export", f"{finished.name}:0:9", "x").code == 2
    assert not Path("x").exists()


def test_scores_come_along_beside_the_ticket_unless_they_are_left_out(ltx: Ltx, exported: Path, one_bit: Path) -> None:
    assert same(load_ticket(exported).score, open_run(one_bit).ticket().score)
    (exported / SCORES).unlink()
    assert load_ticket(exported).score == {}, "the ticket does without"
    assert ltx("export", str(one_bit), "small", "scores=false").code == 0
    assert not Path("small", SCORES).exists() and load_ticket("small").score == {}
    assert SCORES not in Path("small/README.md").read_text() and SCORES in (exported / "README.md").read_text()


def test_show_measures_a_ticket_and_writes_nothing(ltx: Ltx, finished: Path, root: Path) -> None:
    before = tree(root)
    for word in (finished.name, f"{finished.name}:1:1"):
        result = ltx("show", word, "--time")
        assert result.code == 0, result.err
        assert re.search(r"ms, batch of 1 +[\d.]+ +[\d.]+", result.out) and "bytes" in result.out
    assert "seed 1, level 1" in result.out
    assert tree(root) == before and not any(Path.cwd().iterdir())
    result = ltx("show", finished.name, "--time", "trust=yes")
    assert result.code == 2 and "trust=yes: should be true or false" in result.err
    assert "config" not in result.out and "optim:" in ltx("show", finished.name).out


def test_the_numbers_of_a_ticket_stay_apart_from_those_of_its_machine(exported: Path) -> None:
    config = unpack(exported / TICKET)[1]["config"]
    assert not {"root", "wandb", "device", "workers"} & set(config) and config["threads"] == 1


# Time.


def test_networks_take_turns_and_see_every_size_of_a_batch() -> None:
    seen: list[tuple[str, int, int]] = []

    class Noting(nn.Module):
        def __init__(self, name: str):
            super().__init__()
            self.name = name

        def forward(self, x: Tensor) -> Tensor:
            seen.append((self.name, len(x), torch.get_num_threads()))
            return x

    threads = torch.get_num_threads()
    found = timing.measured(Noting("dense"), Noting("small"), torch.zeros(100, 2), threads + 1)
    assert [one.batch for one in found] == [1, 256] and torch.get_num_threads() == threads
    for one in found:
        mine = [name for name, batch, _ in seen if batch == one.batch][2 * timing.WARM_UP :]
        assert mine == ["dense", "small"] * one.rounds and one.rounds >= timing.ROUNDS
    assert {held for _, _, held in seen} == {threads + 1}


def test_the_time_of_a_batch_is_the_median_of_its_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([[1.0, 9.0, 2.0], [4.0, 6.0, 5.0]] * 2)
    monkeypatch.setattr(timing, "alternating", lambda networks, x: [next(times), next(times)])
    found = timing.measured(nn.Identity(), nn.Identity(), torch.zeros(1, 1), 1)
    assert [(one.dense, one.compressed, one.rounds) for one in found] == [(2000, 5000, 3)] * 2


@pytest.mark.parametrize(
    ("rounds", "seconds", "more"),
    [
        (0, 1e9, True),
        (2, 1e9, True),
        (3, 31, False),
        (19, 29, True),
        (20, 0.1, True),
        (20, 0.3, False),
        (500, 0, False),
    ],
)
def test_rounds_go_on_while_they_are_few_and_short(rounds: int, seconds: float, more: bool) -> None:
    assert timing.going(rounds, seconds) is more


# What is refused.

BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "no folder": (("RUN",), "takes a ticket and a folder"),
    "three words": (("RUN", "a", "b"), "takes a ticket and a folder"),
    "an unknown run": (("impp", "a"), "No run is named impp"),
    "an unknown format": (("RUN", "a", "format=onix"), "did you mean 'onnx'?"),
    "an unknown key": (("RUN", "a", "overwrit=true"), "did you mean 'overwrite'?"),
    "neither true nor false": (("RUN", "a", "overwrite=yes"), "overwrite=yes: should be true or false"),
    "no number": (("RUN:²", "a"), "should read RUN, RUN:seed or RUN:seed:level"),
    "an endless number": (("RUN:" + "9" * 5000, "a"), "should read RUN, RUN:seed or RUN:seed:level"),
    "an empty name": (("RUN", ""), "DIR is empty"),
    "a file": (("RUN", "file"), "file is not a folder"),
    "a folder of one's own": (("RUN", "mine"), "holds what `ltx export` did not write (notes.txt)"),
    "a run's folder": (("RUN", "."), "holds what `ltx export` did not write"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(case: str, ltx: Ltx, finished: Path) -> None:
    Path("file").write_text("mine")
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    words, said = BAD[case]
    before = tree(Path.cwd())
    result = ltx("export", *(word.replace("RUN", finished.name) for word in words))
    assert result.code == 2 and said in result.err and len(result.err.splitlines()) == 1, result.err
    assert tree(Path.cwd()) == before


# ONNX.


def test_onnx_without_its_packages_names_what_to_install(
    ltx: Ltx, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltx.export.onnx.find_spec", lambda name: None)
    result = ltx("export", finished.name, "ticket", "format=onnx")
    assert result.code == 2 and "pip install 'ltx[onnx]'" in result.err and not Path("ticket").exists()


def test_what_onnx_cannot_hold_is_refused(ltx: Ltx, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    ticket = known(tmp_path / "own", "model=conv2", "width=.1", "trainer.precision=bf16-true")
    result = ltx("export", str(ticket.path), "ticket", "format=onnx")
    assert result.code == 2 and "format=onnx cannot hold this network" in result.err, result.err
    assert len(result.err.splitlines()) == 1 and not Path("ticket").exists()


ONNX = {
    "images": ("model=resnet20", "width=.25", "model.blocks=[1,1,1]", "method=edge_popup"),
    "binary": ("model=mlp", "model.hidden=[12,8]", "method=biprop", "model.activation=sign"),
}


@pytest.mark.parametrize("case", ONNX)
def test_onnx_gives_the_logits_for_batches_of_any_size(case: str, ltx: Ltx, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    ticket = known(tmp_path, *ONNX[case])
    result = ltx("export", str(ticket.path), "ticket", "format=onnx")
    assert result.code == 0, result.err
    onnx.checker.check_model("ticket/ticket.onnx", full_check=True)
    session = runtime.InferenceSession("ticket/ticket.onnx", providers=["CPUExecutionProvider"])
    x, expected = ticket.spec.data.test.x, logits(program(Path("ticket")).load(folder="ticket"), ticket)
    for batch in (1, 7, len(x)):
        [outputs] = session.run(None, {"x": x[:batch].numpy()})
        assert torch.allclose(torch.from_numpy(outputs), expected[:batch], atol=1e-5, rtol=1e-5)
    assert "ticket.onnx" in Path("ticket/README.md").read_text()
