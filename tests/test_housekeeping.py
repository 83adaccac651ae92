"""What one does around runs: `ltx where`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY, Result

from ltx.config.compose import CONF

Ltx = Callable[..., Result]


def test_where_prints_the_directory_of_the_run_and_nothing_else(ltx: Ltx, finished: Path) -> None:
    assert ltx("where", *TINY) == Result(0, f"{finished}\n", "")
    assert ltx("where", *TINY, "seeds=7", "workers=2").out == f"{finished}\n", "more seeds extend the same run"


def test_where_writes_nothing_and_asks_for_no_device(
    ltx: Ltx, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "locked").mkdir(mode=0o500)
    here = ltx("where", "method=dense", "device=cuda", f"root={tmp_path / 'locked' / 'new'}")
    there = ltx("where", "method=dense")
    assert here.code == there.code == 0
    assert Path(here.out).name == Path(there.out).name and there.out.startswith(f"{root}/runs/dense-lenet-digits-w1-")
    assert not root.exists() and not [*Path().iterdir()]


def test_where_prints_a_line_for_each_point_of_a_sweep(ltx: Ltx, root: Path) -> None:
    words = ("method=dense,imp", "width=.05,.1")
    lines = ltx("where", "-m", *words).out.splitlines()
    single = [ltx("where", f"method={m}", f"width={w}").out.strip() for m in ("dense", "imp") for w in (".05", ".1")]
    assert lines == single and len(set(lines)) == 4
    zipped = ltx("where", "-m", *words, "zip=method,width", "plot=width").out.splitlines()
    assert zipped == [single[0], single[3]]


def test_where_takes_defaults_and_yamls_of_ones_own(ltx: Ltx, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine/method").mkdir(parents=True)
    Path("mine/method/few.yaml").write_text((CONF / "method" / "imp.yaml").read_text())
    Path("run.yaml").write_text("optim: {steps: 30}\n")
    plain, other = (ltx("where", "method=imp", *words).out for words in (["optim.steps=30"], []))
    monkeypatch.setenv("LTX_DEFAULTS", "run.yaml")
    assert ltx("where", "--config-dir", "mine", "method=few").out == plain != other
