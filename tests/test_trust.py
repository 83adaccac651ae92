"""A config on disk can name code: it is not imported unless the user says so, and not called where it is unfit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import TINY, only

import ltx as ltx_package
from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.errors import BadInput
from ltx.store.files import yaml_text

NET = """
from pathlib import Path

from torch import nn

Path({marker!r}).write_text("imported")


class Net(nn.Sequential):
    def __init__(self, input_shape):
        super().__init__(nn.Flatten(), nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, 10))
"""
OWN = ("model=own", "model.init=glorot_normal", "width=1")


@pytest.fixture
def planted(ltx: Callable, root: Path, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, str, Path]:
    """Return a finished run of a user's own network, the network's name, and a file its import writes."""
    module = f"planted_{abs(hash(request.node.name))}"
    marker = tmp_path / "marker"
    Path(f"{module}.py").write_text(NET.format(marker=str(marker)))
    name = f"{module}:Net"
    assert ltx("run", *TINY, *OWN, f"model.name={name}").code == 0
    folder = only(root)
    forget(module, marker)
    return folder, name, marker


def forget(module: str, marker: Path) -> None:
    import sys

    from ltx.config.loading import facts, load

    sys.modules.pop(module)
    facts.cache_clear()
    load.cache_clear()
    marker.unlink()


CONTROL = ("method=control", "method.kind=shuffle", "optim.steps=20", "seeds=1")


def test_of_a_run_imports_foreign_code_only_when_told(ltx, planted):
    folder, name, marker = planted
    for of in (folder.name, str(folder), f"{folder.name}:0:1"):
        refused = ltx("run", *CONTROL, f"of={of}")
        assert refused.code == 2 and name in refused.err and "trust=true" in refused.err, refused.err
        assert not marker.exists()
    assert ltx("run", *CONTROL, f"of={folder.name}", "trust=true").code == 0
    assert marker.exists()


def test_of_a_run_whose_class_the_user_names_needs_no_more_trust(ltx, planted):
    folder, name, marker = planted
    result = ltx("run", *CONTROL, f"of={folder.name}", *OWN, f"model.name={name}")
    assert result.code == 0 and marker.exists(), result.err


def test_code_that_a_trunks_trunk_names_is_foreign_too(ltx, planted, root):
    folder, name, marker = planted
    outer = root / "runs" / "outer"
    shutil.copytree(folder, outer)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    above = {**config, "model": {**compose(["model=mlp"], [])["model"]}, "trunk": config}
    (outer / "config.yaml").write_text(yaml_text(above))
    refused = ltx("run", *CONTROL, "of=outer")
    assert refused.code == 2 and name in refused.err and not marker.exists()


def test_status_show_and_an_opened_runs_tables_import_nothing_and_a_ticket_says_what_it_needs(ltx, planted):
    folder, name, marker = planted
    assert ltx("status").code == ltx("show", folder.name).code == 0
    run = ltx_package.open_run(folder)
    assert run.config["model"]["name"] == name and len(run.summary) == 4 and len(run.records)
    with pytest.raises(BadInput, match="trust=True"):
        run.ticket()
    assert not marker.exists()
    assert ltx_package.open_run(folder, trust=True).ticket(1, 1).module() is not None
    assert marker.exists()


def test_trust_is_no_part_of_a_runs_key():
    assert Spec.of(compose(["trust=true"], [])).key == Spec.of(compose([], [])).key


UNFIT = {
    "model.name=subprocess:Popen": "part of Python itself",
    "model.name=os:system": "part of Python itself",
    "data.name=builtins:eval": "part of Python itself",
    "model.name=numpy:array": "an nn.Module, or a function",
    "model.name=unfit:Plain": "an nn.Module, or a function",
    "model.name=unfit:instance": "an nn.Module, or a function",
    "data.name=unfit:Plain": "a class with a method load()",
    "method.name=unfit:Plain": "a frozen dataclass",
    "model.name=unfit:Plian": "did you mean 'Plain'?",
    "model.name=raising:Net": "raising.py, line 2: ",
    "model.name=importing:Net": "No module named 'nowhere_at_all'",
    "model.name=exiting:Net": "SystemExit: 4",
}


@pytest.mark.parametrize("word", UNFIT)
def test_what_is_named_must_be_what_its_group_wants_before_it_is_called(word, ltx, root):
    Path("unfit.py").write_text(
        "from pathlib import Path\n\n\nclass Plain:\n    def __init__(self, **_):\n        Path('called').touch()\n"
        "    def __call__(self):\n        Path('called').touch()\n\n\ninstance = Plain()\nPath('called').unlink()\n"
    )
    Path("raising.py").write_text("x = 1\n1 / 0\n")
    Path("importing.py").write_text("import nowhere_at_all\n")
    Path("exiting.py").write_text("raise SystemExit(4)\n")
    group = word.partition(".")[0]
    own = {"model": "model=own", "data": "data=own", "method": "method=dense"}[group]
    result = ltx("run", own, word)
    assert result.code == 2 and UNFIT[word] in result.err, result.err
    assert len(result.err.strip().splitlines()) == 1 and not root.exists() and not Path("called").exists()
