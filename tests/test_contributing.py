"""The examples of CONTRIBUTING.md are complete: each is put where it says, and its command is run, small."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result
from matplotlib.image import imsave

from ltx.config import names
from ltx.data import Files
from ltx.methods import control
from ltx.store.files import unpack
from ltx.tensors import Tensors, under

REPOSITORY = Path(__file__).resolve().parents[1]
TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
FILES = {text.partition("\n")[0].removeprefix("# "): text for kind, text in BLOCKS if kind in ("python", "yaml")}
COMMANDS = [shlex.split(line) for line in re.findall(r"`(ltx [^`]+)`", TEXT)]
SMALL = ("optim.steps=6", "seeds=1", "width=.1", "workers=0")
CONTROL, IN_KINDS = "src/ltx/methods/control.py", "src/ltx/methods/control.py, KINDS"

Run = Callable[..., Result]


@pytest.fixture
def run(ltx: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Put every example in its place below the folder the test stands in; return how to run its command, smaller."""
    here = Path.cwd()
    for name, text in FILES.items():
        if name not in (CONTROL, IN_KINDS):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(text)
    for room in ("methods", "models", "data", "figures"):
        package = import_module(f"ltx.{room}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(here / "src" / "ltx" / room)])
    known, module_of = {group: names.known(group) for group in names.GROUPS}, names.module_of
    monkeypatch.setattr(names, "known", lambda g: [*known[g], *(p.stem for p in (here / "conf" / g).glob("*.yaml"))])
    monkeypatch.setattr(names, "module_of", lambda group, name: module_of(group, name) or name)
    monkeypatch.setattr(import_module("ltx.figures"), "CONF", here / "conf")

    def command(word: str, *sizes: str) -> Result:
        (words,) = [words for words in COMMANDS if word in words]
        given = {size.partition("=")[0] for size in sizes}
        kept = [w for w in words[2:] if w.partition("=")[0] not in given]
        folder = [f"--config-dir={here / 'conf'}"] if words[1] == "run" else []
        result = ltx(words[1], *folder, *kept, *sizes)
        assert result.code == 0, result.out + result.err
        return result

    return command


def level(folder: Path, number: int) -> tuple[Tensors, dict]:
    """Return the tensors and the row of a level of seed 0."""
    tensors, meta = unpack(folder / "seed_000" / f"level_{number:02d}.safetensors")
    return tensors, meta["row"]


def test_every_example_has_a_command_that_a_test_runs() -> None:
    assert len(FILES) == 13 and len(COMMANDS) == 7


def test_the_method_trains_prunes_and_trains_again(run: Run) -> None:
    folder = run("method=same_sign", *SMALL).folder
    (dense, _), (ticket, row) = level(folder, 0), level(folder, 1)
    mask, begin, end = under("mask", ticket), under("anchor", dense), under("end", dense)
    assert row["kept"] == sum(round(0.2 * m.numel()) for m in mask.values())
    for name, keep in mask.items():
        rank = begin[name].sign() * end[name]
        assert rank[keep].min() >= rank[~keep].max()
        assert torch.equal(under("begin", ticket)[name], begin[name] * keep)


def test_the_method_without_gradients_trains_nothing_and_keeps_the_best(run: Run) -> None:
    tensors, row = level(run("method=best_of", *SMALL, "method.draws=5").folder, 0)
    other, first = level(run("method=best_of", *SMALL, "method.draws=1").folder, 0)
    assert row["step"] == 0 and 0 <= row["best_draw"] < 5 and first["best_draw"] == 0
    assert row["val_loss"] <= first["val_loss"]
    assert all(torch.equal(tensors[f"begin/{name}"], end) for name, end in under("end", other).items())


def test_the_model_runs_with_pruning_and_with_a_search(run: Run, root: Path) -> None:
    run("model=residual", *SMALL)
    assert sorted(path.name.rpartition("-")[0] for path in (root / "runs").iterdir()) == [
        "edge_popup-residual-digits-w0.1",
        "imp-residual-digits-w0.1",
    ]


def test_the_data_set_in_memory_is_what_it_says(run: Run) -> None:
    folder = run("data=wine", *SMALL, "method.levels=1").folder
    assert folder.name.startswith("imp-lenet-wine-w0.1-")
    assert level(folder, 1)[0]["end/fc1.weight"].shape == (30, 13)


def test_the_data_set_of_files_is_decoded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Files.__init__, "__defaults__", (0, "cpu"))  # in this process: workers take seconds to start
    rng = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        Path("images", kind).mkdir(parents=True)
        for number in range(10):
            imsave(Path("images", kind, f"{number}.png"), rng.random((4, 5, 3)))
    folder = run("data=own", *SMALL, "optim.steps=2", "optim.batch=2", "method.levels=0").folder
    assert level(folder, 0)[0]["end/fc1.weight"].shape == (30, 3 * 4 * 5)


def test_the_figure_decides_its_claim_and_is_drawn(run: Run, root: Path) -> None:
    run("scopes", "optim.steps=6", "seeds=2", "width=.05", "method.levels=2", "workers=0")
    said = json.loads((root / "figures" / "scopes.json").read_text())
    assert [claim["n"] for claim in said["claims"]] == [2] and list(said["runs"]) == ["global", "layer"]
    assert (root / "figures" / "scopes.png").exists()


def test_the_control_changes_signs_and_keeps_magnitudes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {**vars(control)}
    exec(FILES[CONTROL], found)
    for kind, value in eval("{" + FILES[IN_KINDS] + "}", found).items():
        monkeypatch.setitem(control.KINDS, kind, value)
    folder = run("method.kind=random_signs", *SMALL, "trunk={method:imp,method.levels:1}").folder
    (trunk,) = [path for path in folder.parent.iterdir() if path.name.startswith("imp")]
    anchor, (tensors, _) = under("anchor", level(trunk, 0)[0]), level(folder, 1)
    for name, keep in under("mask", tensors).items():
        begin = under("begin", tensors)[name]
        assert torch.equal(begin.abs(), anchor[name].abs() * keep)
        assert 0.2 < float((begin[keep].sign() == anchor[name][keep].sign()).float().mean()) < 0.8


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_file_and_target_that_is_named_exists(document: str) -> None:
    text = (REPOSITORY / document).read_text()
    for path in set(re.findall(r"(?<![\w/])(?:src|tests|scripts|conf|docs|config|training|report)/[\w/]+\.\w+", text)):
        assert path in FILES or any((place / path).exists() for place in (REPOSITORY, REPOSITORY / "src/ltx")), path
    for target in set(re.findall(r"^make ([\w-]+)", text, re.MULTILINE)):
        subprocess.run(["make", target, "--dry-run"], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_name_in_backticks_is_a_name_of_the_source(document: str) -> None:
    text = re.sub(r"^```.*?^```", "", (REPOSITORY / document).read_text(), flags=re.MULTILINE | re.DOTALL)
    source = "\n".join(
        path.read_text() for path in [*REPOSITORY.glob("src/ltx/**/*.py"), *REPOSITORY.glob("tests/*.py")]
    )
    words = set(re.findall(r"\w+", source + "\n".join(FILES.values())))
    for quoted in re.findall(r"`([\w.]+)(?:\([^`]*\))?`", text):
        unknown = [word for word in quoted.split(".") if word not in words]
        assert not unknown, f"{quoted} is named in {document} and nowhere in the source"
