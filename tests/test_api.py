"""The Python API: runs trained from scripts, notebooks and threads, refusals as exceptions, and data."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
from conftest import LONG, TINY, only, results, soon, tree, under_way

import ltx as package
import ltx.runs.command as command
from ltx.config.compose import compose
from ltx.config.spec import Spec

IMPORTS = """
import sys
import ltx
print(sorted({"torch", "lightning", "hydra", "pandas"} & set(sys.modules)), {*ltx.__all__} <= {*dir(ltx)})
"""


def test_importing_the_package_imports_nothing_slow() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"


def test_a_run_trains_what_the_command_line_would_and_is_opened(tiny: Path, root: Path) -> None:
    run = package.run(*TINY, root=root, workers=0)
    assert run.path == only(root) and results(run.path) == results(only(tiny))
    assert list(run.summary["level"]) == [0, 1, 0, 1] and run.ticket(seed=1, level=1).density == pytest.approx(
        0.8, 1e-3
    )
    assert package.open_run(run.path).config == run.config


def test_a_finished_run_is_found_and_more_seeds_extend_it(finished: Path, root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.glob("seed_*/level_*")}
    assert package.run(*TINY, root=root, workers=0).path == finished
    run = package.run(*TINY[:-1], root=str(root), workers=0, seeds=[1, 4], wandb={"mode": "disabled"})
    after = {path: path.stat().st_mtime_ns for path in finished.glob("seed_*/level_*")}
    assert before.items() <= after.items() and sorted({*run.summary["seed"]}) == [0, 1, 4]


def test_keyword_arguments_are_what_the_command_line_has_as_words(root: Path) -> None:
    keys = {"trunk": {"method": "imp", "method.levels": 1}, "seeds": 1, "fail_fast": True, "streams": {"init": 0}}
    run = package.run("method=control", "optim.steps=4", width=0.05, root=root, workers=0, **keys)
    words = ["method=control", "optim.steps=4", "width=.05", "trunk={method:imp,method.levels:1}", "streams.init=0"]
    assert run.path.name == Spec.of(compose(words, [])).key
    assert run.config["fail_fast"] is True and len(list((root / "runs").iterdir())) == 2


def test_yaml_files_of_ones_own_are_found_in_config_dirs(root: Path, tmp_path: Path) -> None:
    for group, text in {"method": "name: dense\n", "data": "name: digits\nsplit_seed: 3\nshift: 0\n"}.items():
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "mine.yaml").write_text(text)
    words = ("method=mine", "data=mine", "optim.steps=4", "width=.05", "seeds=1")
    run = package.run(*words, root=root, workers=0, config_dirs=[tmp_path / "conf"])
    assert run.config["method"]["name"] == "dense" and run.config["data"]["split_seed"] == 3
    mine = package.load_data("mine", config_dirs=[tmp_path / "conf"])
    assert torch.equal(mine.test.x, package.load_data(split_seed=3).test.x)


REFUSED = [
    (("method=imq",), {}, "did you mean 'imp'"),
    ((), {"sedes": 2}, "did you mean 'seeds'"),
    ((), {"width": 0}, "greater than 0"),
    ((), {"seeds": [3, 3]}, "names a seed twice"),
    (("width=1,2",), {}, "`ltx run -m width=1,2` is a sweep"),
    (("method=imp,dense",), {}, "`ltx run -m method=imp,dense` is a sweep"),
    (("width=range(1,4)",), {}, "is a sweep"),
    (("experiment=width",), {}, "ltx run -m experiment=width"),
    (("model=own", "model.name=__main__:Net"), {}, "into a file of its own"),
    (("--dry-run",), {}, "'--dry-run' is not key=value"),
    ((), {"config_dirs": ["nowhere"]}, "nowhere is not a folder"),
]


@pytest.mark.parametrize(("words", "keys", "said"), REFUSED, ids=[f"{words} {keys}" for words, keys, _ in REFUSED])
def test_bad_input_is_raised_and_nothing_is_written(words, keys, said, tmp_path: Path, root: Path) -> None:
    before = tree(tmp_path)
    with pytest.raises(package.BadInput) as refusal:
        package.run("workers=0", *words, **{"root": root, **keys})
    assert said in str(refusal.value) and tree(tmp_path) == before


def test_a_failed_seed_raises_what_failed_what_is_kept_and_how_to_go_on(root: Path) -> None:
    with pytest.raises(package.Failed, match=r"2 of 2 diverged.*0 finished levels are kept.*retry_failed=true"):
        package.run(*TINY, "optim=sgd", "optim.lr=1e30", "optim.weight_decay=1", root=root, workers=0)


NET = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, input_shape, classes):
        super().__init__(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, classes))
"""


def test_a_class_of_ones_own_that_was_just_named_needs_no_more_trust(root: Path) -> None:
    Path("api_net.py").write_text(NET)
    words = ("model=own", "model.name=api_net:Net")
    run = package.run(*words, "method.levels=0", "optim.steps=4", root=root, workers=0, seeds=1)
    assert run.ticket().module()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(package.BadInput, match="trust=True"):
        package.open_run(run.path).ticket()


def workers() -> list[int]:
    """List the living processes that this process's fork server has started."""
    server, found = forkserver._forkserver._forkserver_pid, []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        found += [int(place.name)] if int(parent) == server and state != "Z" else []
    return found


def test_ctrl_c_raises_with_the_workers_gone_and_the_same_call_continues(root: Path, undisturbed: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    seen: list[int] = []

    def interrupt() -> None:
        soon(lambda: under_way(root))
        seen.extend(workers())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt, match="the same call continues"):
            package.run(*LONG, root=root, workers=2)
        assert seen and not workers() and not list(only(root).glob("seed_*/claim"))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert results(package.run(*LONG, root=root, workers=2).path) == results(undisturbed)


def test_a_second_ctrl_c_raises_too_and_ends_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    def exit_now(code: int) -> None:
        raise AssertionError("the process was ended")

    monkeypatch.setattr(os, "_exit", exit_now)
    monkeypatch.setattr(command, "specs_of", lambda *_: press_twice())
    with pytest.raises(KeyboardInterrupt):
        package.run(workers=0)


def press_twice() -> None:
    """Press Ctrl-C, and again while the first is being dealt with."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


SCRIPT = """
import asyncio
import sys
import threading

import ltx

print("the script begins")
TINY = ("method.levels=1", "optim.steps=20", "wandb.mode=disabled")


def train(rewind):
    run = ltx.run(*TINY, f"method.rewind={rewind}", width=0.05, seeds=2, workers=2, root=sys.argv[1])
    print(len(run.summary), "rows")


async def cell():
    train(1)


train(0)
asyncio.run(cell())
thread = threading.Thread(target=train, args=(2,))
thread.start()
thread.join()
print(ltx.run.__module__, sys.modules["__main__"].__file__ == __file__)
"""


def test_a_script_without_a_guard_trains_with_workers_in_an_event_loop_and_in_a_thread(root: Path) -> None:
    Path("script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py", str(root)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line for line in done.stdout.splitlines() if "optimiser steps" not in line]
    assert said == ["the script begins", *["4 rows"] * 3, "ltx.api True"] and not done.stderr
    assert len(list((root / "runs").iterdir())) == 3


def test_data_is_loaded_as_a_run_sees_it() -> None:
    data, seen = package.load_data("digits"), Spec.of(compose([], [])).data
    for split in ("train", "val", "test"):
        mine, theirs = getattr(data, split), getattr(seen, split)
        assert torch.equal(mine.x, theirs.x) and torch.equal(mine.y, theirs.y)
    data.train.x.zero_()
    assert seen.train.x.any() and package.load_data().train.x.any(), "what a caller changes is the caller's own"


RINGS = """
import numpy as np
class Rings:
    def __init__(self, examples: int = 2000):
        self.examples = examples
    def load(self):
        x = np.random.default_rng(0).normal(size=(self.examples, 2))
        return x, (np.hypot(*x.T) > 1.2).astype(int)
"""


def test_data_of_ones_own_takes_its_fields_and_refuses_others() -> None:
    Path("api_rings.py").write_text(RINGS)
    data = package.load_data("own", name="api_rings:Rings", examples=100)
    assert [len(split.y) for split in (data.train, data.val, data.test)] == [70, 10, 20]
    with pytest.raises(package.BadInput, match="did you mean 'examples'"):
        package.load_data("own", name="api_rings:Rings", exmaples=100)
    with pytest.raises(package.BadInput, match="did you mean 'digits'"):
        package.load_data("digit")
