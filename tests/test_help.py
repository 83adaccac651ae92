"""Help and lists: what they name can be typed, they follow the yamls, and they fit the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from conftest import Result

from ltx.cli.commands import COMMANDS
from ltx.cli.fields import commented
from ltx.cli.listing import LISTED
from ltx.config.compose import CONF, choices, compose
from ltx.config.names import GROUPS, readable
from ltx.config.schema import RunConfig
from ltx.config.spec import Spec
from ltx.figures import names as figures
from ltx.runs.sweep import labels

Ltx = Callable[..., Result]

NET = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self, classes, width, units: int, slope: float = 0.1, shape: tuple = (1, 2)):
        super().__init__(nn.Flatten(), nn.Linear(64, classes))
"""


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A --config-dir with a method, an experiment and a figure, and a module with a network beside it."""
    Path("mynet.py").write_text(NET)
    for group, name, text in (
        ("method", "random_ticket", "# Keeps what chance keeps.\nname: tickets.random_ticket:Method\ndensity: 0.2\n"),
        ("model", "mynet", "name: mynet:Net\nunits: 5  # of the hidden layer; not used\n"),
    ):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / f"{name}.yaml").write_text(text)
    return tmp_path / "conf"


def listed(out: str) -> Iterator[tuple[str, str]]:
    """Yield every name of a list with how its heading says to use it."""
    use = ""
    for line in out.splitlines():
        heading = re.fullmatch(r"\w+ \((.*)\):", line)
        if heading:
            use = heading[1]
        elif re.match(r"  \S", line):
            yield use, line[2:].partition("  ")[0]


def test_a_name_that_is_copied_from_the_list_works_as_its_heading_says(ltx: Ltx) -> None:
    out = ltx("list").out
    names = [*listed(out)]
    assert len(names) == sum(len(choices(group, [])) for group, _ in LISTED.values())
    assert ("ltx figure NAME", "edge-popup") in names
    assert ("model=NAME", "own model.name=package.module:Class") in names
    for use, name in names:
        if use == "ltx figure NAME":
            assert name in figures()
        else:
            words = use.replace("NAME", name).split()
            words += ["trunk={method:imp}"] if "method=control" in words else []
            result = compose(words, [])
            assert result[words[0].partition("=")[0]] if "experiment" not in use else result


@pytest.mark.parametrize("words", [["list"], ["list", "models", "width=4"], *([name, "--help"] for name in COMMANDS)])
def test_lists_and_help_fit_eighty_columns(words: list[str], ltx: Ltx) -> None:
    result = ltx(*words)
    assert result.code == 0 and result.out and max(map(len, result.out.splitlines())) <= 80
    assert max(map(len, ltx("--help").out.splitlines())) <= 80


def test_a_list_uses_what_a_wide_terminal_offers(ltx: Ltx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert all(line.startswith(("  ", "methods")) for line in ltx("list", "methods").out.splitlines())
    assert len(ltx("list", "methods").out.splitlines()) == 1 + len(choices("method", []))


def test_a_list_has_yamls_of_ones_own_and_shows_their_class(ltx: Ltx, mine: Path) -> None:
    out = ltx("list", "methods", "--config-dir", str(mine)).out
    assert "  random_ticket  Keeps what chance keeps. (random_ticket.Method)" in out.splitlines()
    lines = ltx("list", "models", f"--config-dir={mine}").out.splitlines()
    assert ["mynet", "(mynet.Net)"] in [line.split() for line in lines]
    (mine / "method" / "broken.yaml").write_text("name: [")
    result = ltx("list", "methods", "--config-dir", str(mine))
    assert result.code == 2 and "broken.yaml" in result.err
    assert "--config-dir nowhere is not a folder" in ltx("list", "--config-dir", "nowhere").err
    assert "--config-dir needs a value" in ltx("list", "--config-dir").err


def test_the_help_of_a_command_is_its_own(ltx: Ltx) -> None:
    for command in COMMANDS:
        usage, _, paragraph = ltx(command, "--help").out.partition("\n\n")
        assert f"ltx {command}" in usage and paragraph
        assert ltx(command, "imp", "-h").out == ltx(command, "--help").out


def test_the_help_of_run_has_every_key_with_the_comment_of_its_yaml(ltx: Ltx) -> None:
    out = ltx("run", "--help").out
    said = " ".join(out.split())
    for key in {*RunConfig.model_fields} - {*GROUPS} | {"of"}:
        assert re.search(rf"^  {key}(=|\.FIELD=|\.\w+=)", out, re.MULTILINE), key
    for _, _, comment, above in commented((CONF / "run.yaml").read_text()):
        assert comment in said and (above in said or "ltx run method=imp width=4" in above)
    for group in GROUPS:
        assert " | ".join(choices(group, [])) in said
    for flag in ("-m", "--dry-run", "--full", "--cfg", "--config-dir"):
        assert f"\n  {flag}" in out


@pytest.mark.parametrize("method", choices("method", []))
def test_the_help_of_a_choice_has_every_field_with_its_value(method: str, ltx: Ltx) -> None:
    out = ltx("run", f"method={method}", "--help").out
    node = yaml.safe_load((CONF / "method" / f"{method}.yaml").read_text())
    for name in set(node) - {"name", "recipe", "defaults"}:
        assert f"  method.{name}=" in out
    assert max(map(len, out.splitlines())) <= 80 and ("also sets" in out) == ("recipe" in node)


def test_a_field_shows_default_type_range_and_comment(ltx: Ltx, mine: Path) -> None:
    said = " ".join(ltx("run", "method=biprop", "optim=adamw", "--help").out.split())
    for text in (
        "method.density=0.5 float > 0, <= 1; kept, of each layer",
        "method.scope=layer global | layer | erk method.exclude=[] list of str; layers kept whole",
        "also sets optim=sgd model.init=kaiming_normal model.bias=false",
        "optim.weight_decay=0.01 float >= 0",
        "optim.steps=420 int >= 1",
        "optim.clip=null float > 0 | null",
        "optim.schedule=constant constant | multistep | cosine",
    ):
        assert text in said
    said = " ".join(ltx("run", "--config-dir", str(mine), "model=mynet", "-h").out.split())
    assert "model=mynet (mynet.Net)" in said and "model.units=5 int; of the hidden layer; not used" in said
    assert "model.slope=0.1 float" in said
    said = " ".join(ltx("run", "model=own", "model.name=mynet:Net", "--help").out.split())
    assert "model=own (mynet.Net)" in said and "model.units=VALUE int" in said


def test_the_help_of_a_misspelt_choice_is_a_refusal(ltx: Ltx) -> None:
    result = ltx("run", "method=bipop", "--help")
    assert result.code == 2 and "did you mean 'biprop'" in result.err


def test_a_class_of_ones_own_is_named_by_module_and_class(ltx: Ltx) -> None:
    Path("nets").mkdir()
    Path("nets/deep.py").write_text(NET)
    words = ("model=own", "model.name=nets.deep:Net", "model.units=3", "method=dense", "width=1")
    spec = Spec.of(compose([*words], []))
    assert re.fullmatch("dense-deep.Net-digits-w1-[0-9a-f]{8}", spec.key)
    (label,) = labels([spec], [[*words]])
    assert label["model"] == "deep.Net"
    result = ltx("run", *words, "optim.steps=2", "seeds=1")
    assert result.code == 0 and result.folder.name.startswith("dense-deep.Net-digits-w1-")
    assert "units: 3" in ltx("show", result.folder.name).out, "the config's name is that of its folder"
    assert "dense-deep.Net-digits-w1-" in ltx("status", "--json").out
    Path("nets/ways.py").write_text("from ltx.methods.dense import Method\n")
    Path("mine/method").mkdir(parents=True)
    Path("mine/method/way.yaml").write_text("name: nets.ways:Method\n")
    assert ltx("run", "--config-dir=mine", "method=way", "width=.05", "optim.steps=2", "seeds=1").code == 0
    assert " ways.Method width=0.05 " in ltx("status", "method=ways.Method").out


def test_a_readable_name_has_no_character_that_a_folder_cannot_have() -> None:
    config = {group: {"name": "imp"} for group in GROUPS} | {
        "width": 0.5,
        "model": {"name": "a.b:C\N{GREEK SMALL LETTER MU}"},
    }
    assert readable(config) == "imp-b.C_-imp-w0.5"
