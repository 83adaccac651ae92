"""What tests of exports share: a finished ticket of any run, and what an export's own loader makes of it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from ltx import open_run
from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.export import loader
from ltx.export.build import Export
from ltx.export.folder import LOADER, write
from ltx.export.restore import TICKET
from ltx.identity.measure import Known
from ltx.runs.manifest import write_config
from ltx.runs.worker import run_seed
from ltx.store.folders import RunFolder

SHORT = ("device=cpu", "optim.steps=4", "optim.batch=40", "seeds=1")


def known(root: Path, *words: str, level: int | None = None) -> Known:
    """Train the first seed of a short run in this process, its trunk before it, and return the last level's ticket."""
    config = compose([*SHORT, *words, f"root={root}"], [])
    if config["method"].get("levels") and not config["trunk"]:
        config["method"]["levels"] = 1
    config["method"] |= {name: 2 for name in config["method"] if name.endswith("_every")}
    spec = Spec.of(config)
    for one in (spec.trunk, spec):
        if one is not None:
            run_seed(one.config, str(one.directory), 0, lambda kind, value: None)
    write_config(spec, RunFolder(spec.directory), ["ltx", "run", *words])
    return Known.of(open_run(spec.directory, trust=True), 0, level)


def written(export: Export, folder: Path) -> Path:
    """Write the ticket and the loader of an export."""
    write(export, folder, {TICKET: export.content, LOADER: export.program.encode()})
    return folder


def loaded(folder: Path, compressed: bool = False) -> nn.Module:
    """Return what the loader in a folder makes of it."""
    network = program(folder).load(compressed, folder)
    assert isinstance(network, nn.Module)
    return network


def program(folder: Path) -> ModuleType:
    """Return what the loader in a folder defines."""
    return loader.module_of((folder / LOADER).read_text())


@torch.no_grad()
def logits(network: nn.Module, known: Known) -> Tensor:
    """Return what a loaded network makes of the test part, in the chunks in which the run was measured."""
    return torch.cat([network(x) for x, _ in known.spec.data.test.chunks(2048)])


@torch.no_grad()
def of_run(known: Known) -> Tensor:
    """Return what the ticket's own network makes of the test part, in the run's form."""
    form = known.spec.form
    with form.context("cpu"):
        return torch.cat([known.module(form.inputs(x)) for x, _ in known.spec.data.test.chunks(2048)])


def accuracy(outputs: Tensor, known: Known) -> float:
    """Return the share of the test part that outputs classify right."""
    return float((outputs.argmax(-1) == known.spec.data.test.y).double().mean())
