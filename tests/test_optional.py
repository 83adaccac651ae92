"""A field that only some classes have, written ?group.field=value: set where it exists, dropped elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result, only

import ltx as package
from ltx.config.compose import compose, hydra_main
from ltx.config.defaults import NONE
from ltx.config.optional import settled
from ltx.config.spec import Spec
from ltx.errors import BadInput
from ltx.runs.sweep import labels

Ltx = Callable[..., Result]


def points(*words: str, folders: tuple[str, ...] = (), flags: tuple[str, ...] = ("-m",)) -> list[list[str]]:
    """Return the points of a sweep's words, without the plusses that Hydra wants."""
    found, _ = hydra_main([*flags], [*words], [*folders])
    return [[word.lstrip("+") for word in point] for point in settled(found, [*folders], NONE)]


def test_a_sweep_sets_the_field_where_it_exists_and_repeats_no_other_point() -> None:
    found = points("method=imp,dense", "?method.levels=1,2", "width=1,2")
    assert found == [
        ["method=imp", "method.levels=1", "width=1"],
        ["method=imp", "method.levels=1", "width=2"],
        ["method=imp", "method.levels=2", "width=1"],
        ["method=imp", "method.levels=2", "width=2"],
        ["method=dense", "width=1"],
        ["method=dense", "width=2"],
    ]
    named = labels([Spec.of(compose(words, [])) for words in found], found)
    assert [label["method.levels"] for label in named] == ["1", "1", "2", "2", None, None]


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        (("model=lenet,convnet", "?model.hidden=[9]"), [True, False]),
        (("optim=adam,sgd", "?optim.momentum=.8"), [False, True]),
        (("data=digits", "method=imp,dense", "?data.shift=1"), [True, True]),
        (("method=imp,edge_popup", "?method.density=.4", "?method.rewind=3"), [True, True]),
        (("method=dense,control", "trunk={method:imp}", "?method.kind=shuffle"), [False, True]),
    ],
)
def test_every_group_can_be_asked(words: tuple[str, ...], taken: list[bool]) -> None:
    keys = [word[1:].partition("=")[0] for word in words if word[0] == "?"]
    assert [any(word.partition("=")[0] in keys for word in point) for point in points(*words)] == taken


def test_what_is_typed_last_counts_with_its_mark() -> None:
    assert points("method=imp,dense", "method.levels=3", "?method.levels=2") == [
        ["method=imp", "method.levels=2"],
        ["method=dense"],
    ]
    with pytest.raises(BadInput, match="not a field of method=dense"):
        [Spec.of(compose(p, [])) for p in points("method=imp,dense", "?method.levels=2", "method.levels=3")]


def test_it_may_go_in_step(ltx: Ltx) -> None:
    words = ("method=imp,dense,imp", "?method.levels=1,7,2", "zip=method,?method.levels")
    said = ltx("run", "-m", *words, "--dry-run").out
    assert [line.split()[:2] for line in said.splitlines()[1:4]] == [
        ["method=imp", "method.levels=1"],
        ["method=dense", "0/3"],
        ["method=imp", "method.levels=2"],
    ]


def test_a_named_sweep_may_hold_one_and_the_command_line_wins(tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "some.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      method: imp,dense\n"
        "      ?method.levels: 1,2\n"
    )
    name, folders = "experiment=some", (str(folder.parent),)
    imp = ["method=imp", "method.levels=1", name], ["method=imp", "method.levels=2", name]
    assert points(name, folders=folders, flags=()) == [*imp, ["method=dense", name]]
    assert points(name, "?method.levels=2", folders=folders, flags=()) == [imp[1], ["method=dense", name]]
    with pytest.raises(BadInput, match="not a field of method=dense"):
        plain = points(name, "method.levels=2", folders=folders, flags=())
        [Spec.of(compose(words, [*folders])) for words in plain]


REFUSED = [
    (["-m", "method=imp,dense", "?method.lvels=2"], "method=dense or method=imp; did you mean 'levels'?"),
    (["-m", "method=dense,supermask", "?method.levels=2"], "?method.levels is a field of no point here"),
    (["method=dense", "?method.lvels=2"], "did you mean 'levels'?"),
    (["?width=2"], "?width=2: a ? stands before a field of data, model, method, optim"),
    (["?method=imp"], "a ? stands before a field"),
    (["?foo.bar=2"], "a ? stands before a field"),
    (["method=dense", "?method.levels=1,2"], "?method.levels=1,2 is several values: -m"),
    (["?method.levels"], "not key=value"),
    (
        ["-m", "method=imp,dense", "method.levels=2"],
        "control, imp and 2 others have it: write ?method.levels=2 to set it where it exists.",
    ),
    (["optim.momentum=.9"], "sgd has it: write ?optim.momentum=0.9"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_a_name_that_nothing_has_is_refused_and_the_plain_form_says_how_to_write_it(
    words: list[str], said: str, ltx: Ltx, root: Path
) -> None:
    result = ltx("run", *words)
    assert result.code == 2 and said in result.err and len(result.err.strip().splitlines()) == 1
    assert not root.exists()


def test_a_field_that_no_class_has_is_not_offered_with_a_question_mark(ltx: Ltx) -> None:
    assert "?" not in ltx("run", "method.fractoin=.2").err.replace("did you mean 'fraction'?", "")


def test_a_single_run_drops_what_its_class_does_not_have(ltx: Ltx) -> None:
    dense = ltx("run", "method=dense", "?method.levels=2", "--cfg", "job")
    assert dense.code == 0 and "levels" not in dense.out
    assert "levels: 2" in ltx("run", "method=imp", "?method.levels=2", "--cfg", "job").out
    assert "levels: 2" in ltx("run", "?method.levels=2", "--dry-run").out


def test_python_takes_it_and_the_manifest_keeps_it_as_it_was_given(root: Path) -> None:
    small = ("width=.05", "optim.steps=2", "seeds=1", f"root={root}", "workers=0")
    run = package.run("method=dense", "?method.levels=1", *small)
    assert list(run.summary["level"]) == [0]
    (command,) = json.loads((only(root) / "manifest.json").read_text())["commands"]
    assert "?method.levels=1" in command["command"]
