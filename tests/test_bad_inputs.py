"""Bad inputs of every kind: each ends with 2 and one paragraph that says what to do, and leaves no trace."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from bad_inputs import DAMAGED, FILES, TYPED
from helpers import spec

import ltx as ltx_package
from ltx.cli import main
from ltx.config.compose import compose
from ltx.config.spec import Spec
from ltx.errors import BadInput, printable
from ltx.store.files import yaml_text

DONE = ("method.levels=1", "optim.steps=20", "width=.05", "seeds=2")


LEAKS = (
    "Traceback",
    "Error executing job",
    "hydra.",
    "Hydra",
    "omegaconf",
    "pydantic",
    "c10::",
    str(Path(ltx_package.__file__).parent),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all the files that the inputs name, and a run's folder with nothing but its config."""
    here = tmp_path_factory.mktemp("world")
    for name, content in FILES.items():
        path = here / "cwd" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = spec(*DONE)
    folder = here / "done" / "runs" / done.key
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml_text(done.config))
    return here


@pytest.fixture
def refused(world: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Call the command line in the world and return its refusal, once it is one and nothing has changed."""

    def begun(*_: Any) -> Any:
        pytest.fail("it was accepted")

    monkeypatch.chdir(world / "cwd")
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("ltx.launch.local.warm_up", lambda: None)
    monkeypatch.setattr("ltx.runs.sweep.writing_begins", begun)

    def call(words: list[str], here: Path = world) -> str:
        words = [filled(word, here) for word in words]
        while words[0].startswith("$"):
            name, _, value = words.pop(0)[1:].partition("=")
            monkeypatch.setenv(name, value)
        if words[0] in ("run", "where", "status", "show", "figure") and not {"root", "LTX_OUTPUT"} & named(words):
            words.append(f"root={here / 'root'}")
        before, children = traces(here), processes()
        capfd.readouterr()
        code = main(words)
        out, err = capfd.readouterr()
        assert (code, out) == (2, ""), f"{code}: {out}{err}"
        assert len(err.splitlines()) == 1 and err.startswith("ltx: ") and err.rstrip()[-1] in ".?", err
        assert not any(leak in err for leak in LEAKS), err
        assert traces(here) == before and processes() == children
        return err.removeprefix("ltx: ").rstrip("\n")

    return call


def filled(text: str, here: Path) -> str:
    """Put the folder and the key of the finished run in the place of their names."""
    (run,) = here.glob("done/runs/*")
    return text.replace("HERE", str(here)).replace("KEY", run.name)


def named(words: list[str]) -> set[str]:
    """Return the keys that words set, and LTX_OUTPUT where the environment has it."""
    return {word.partition("=")[0] for word in words} | {*os.environ}


def traces(folder: Path) -> dict[str, tuple[int, int]]:
    """Return every path below a folder with its size and the time of its last change."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            state = os.stat(path)
            if name in files or "__pycache__" not in name:
                found[path] = (state.st_size, state.st_mtime_ns if name in files else 0)
    return found


def processes() -> str:
    """Return this process's children; a system without /proc shows none."""
    return "".join(path.read_text() for path in Path("/proc/self/task").glob("*/children"))


@pytest.mark.parametrize(("typed", "said"), TYPED, ids=[typed for typed, _ in TYPED])
def test_a_bad_input_is_refused_in_one_paragraph_with_its_remedy_and_leaves_no_trace(typed, said, refused, world):
    assert filled(said, world) in refused(typed.split(" "))


def test_python_is_refused_the_same_in_the_same_words(refused, world):
    asked = [typed.split(" ")[1:] for typed, _ in TYPED if typed.startswith("run ") and not {"-", "HERE"} & {*typed}]
    plain = [
        words for words in asked if not any(w.startswith(("-", "\N{EM DASH}", "experiment", "root=")) for w in words)
    ]
    plain = [words for words in plain if not any("=" not in w or "," in w or "HERE" in w for w in words)]
    assert len(plain) > 100
    for words in plain[::5]:
        expected = refused(["run", *words])
        with pytest.raises(BadInput) as error:
            ltx_package.run(*words, root=str(world / "root"))
        assert printable(str(error.value)) == expected, words


def test_what_a_refusal_says_about_inheriting_works(refused, world, monkeypatch):
    said = refused(["run", "--config-dir", "mine", "method=bare"])
    line = said.partition("`")[2].partition("`")[0]
    folder = world / "cwd" / "followed" / "method"
    folder.mkdir(parents=True)
    (folder / "bare.yaml").write_text(f"{line}\nname: bad_method:Mine\nlevels: 2\n")
    found = Spec.of(compose(["method=bare", "width=.1"], [str(folder.parent)])).config["method"]
    assert found == {**spec("method.levels=2").config["method"], "name": "bad_method:Mine"}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_run_named_as_trunk_whose_config_is_damaged_is_refused(kind, refused, world, tmp_path):
    content, said = DAMAGED[kind]
    shutil.copytree(world / "done", tmp_path / "done")
    (path,) = tmp_path.glob("done/runs/*/config.yaml")
    path.write_bytes(content if isinstance(content, bytes) else changed(path.read_text(), content).encode())
    words = ["run", "method=control", "method.kind=ticket", "root=HERE/done", "of=KEY"]
    assert said in refused(words, tmp_path)


def changed(text: str, content: str) -> str:
    """Return a config with one value of another, `group.key: value`, or the content itself where it is no such line."""
    key, _, value = content.strip().partition(": ")
    config = yaml.safe_load(text)
    group, dot, field = key.partition(".")
    if (not dot and key not in config) or "\n" in content.strip():
        return content
    (config[group] if dot else config).update({field or key: float(value) if not dot else value})
    return yaml_text(config)
