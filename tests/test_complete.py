"""Tab completion: what is offered can be used, and bash asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ltx.cli import main
from ltx.cli.complete import SCRIPT
from ltx.store.sweeps import Record, SweepFolder
from ltx.store.tags import write_tags


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ltx fi", ["figure"]),
        ("ltx run me", ["method.", "method="]),
        ("ltx run method=d", ["method=dense"]),
        ("ltx run -m method=dense,imp method.l", ["method.levels="]),
        ("ltx run optim.m", ["optim.milestones="]),  # adam has no momentum
        ("ltx run optim=sgd optim.m", ["optim.milestones=", "optim.momentum="]),
        ("ltx run wandb.m", ["wandb.mode="]),
        ("ltx run --d", ["--dry-run"]),
        ("ltx run --f", ["--full"]),
        ("ltx run --h", ["--help"]),
        ("ltx run nothing.", []),
        ("ltx where method=d", ["method=dense"]),
        ("ltx where --", ["--config-dir", "--help"]),
        ("ltx figure s", ["same-ticket", "sanity", "seed-variance", "seeds=", "signs", "streams.", "streams="]),
        ("ltx list m", ["methods", "models"]),
        ("ltx show imp-", ["imp-lenet-digits-w1-00000000"]),
        ("ltx show w", ["width", "width-01234567"]),
        ("ltx diff imp-", ["imp-lenet-digits-w1-00000000"]),
        ("ltx diff w", []),
        ("ltx compare imp-", ["imp-lenet-digits-w1-00000000"]),
        ("ltx compare --", ["--json"]),
        ("ltx export imp-", ["imp-lenet-digits-w1-00000000"]),
        ("ltx export imp-lenet-digits-w1-00000000 ticket f", ["format=onnx"]),
        ("ltx show --", ["--time"]),
        ("ltx tag imp-", ["imp-lenet-digits-w1-00000000"]),
        ("ltx status tag=g", ["tag=good"]),
        ("ltx report f", ["figure"]),
        ("ltx report w", ["width", "width-01234567"]),
        ("ltx report imp-", ["imp-lenet-digits-w1-00000000"]),
        ("ltx report figure ti", []),
        ("ltx report figure sa", ["same-ticket", "sanity"]),
        ("ltx clean --", ["--failed", "--partial", "--yes"]),
        ("ltx clean imp-", ["imp-lenet-digits-w1-00000000"]),
        ("ltx doctor ", ["--json", "root="]),
        ("ltx work w", ["wait=true", "width", "width-01234567", "workers="]),
        ("ltx cancel w", ["width", "width-01234567"]),
        ("ltx run -m hydra/launcher=s", ["hydra/launcher=slurm"]),
        ("ltx run -m hydra/launcher=slurm launcher.p", ["launcher.partition=", "launcher.per_task="]),
        ("ltx status f", ["failed"]),
        ("ltx status sort=a", ["sort=accuracy", "sort=age"]),
        ("ltx status m", ["method=", "model="]),
        ("ltx status --c", ["--columns="]),
        ("ltx tail q", ["quantile="]),
        ("ltx tail m", ["method=", "model="]),
        ("ltx run of=", ["of=imp-lenet-digits-w1-00000000"]),
    ],
)
def test_a_line_is_completed_by_what_may_follow(
    line: str, offered: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "imp-lenet-digits-w1-00000000").mkdir(parents=True)
    write_tags(tmp_path / "runs" / "imp-lenet-digits-w1-00000000", ["good", "other"])
    SweepFolder(tmp_path / "sweeps" / "width-01234567").begin(Record("width", [], [], ""))
    monkeypatch.setenv("LTX_OUTPUT", str(tmp_path))
    assert main(["complete", line]) == 0
    assert capsys.readouterr().out.split() == offered


def test_bash_completes_after_an_equals_sign_and_leaves_no_space_after_a_key() -> None:
    asked = """
    COMP_WORDBREAKS=$' \\t\\n"=:'
    for COMP_LINE in "ltx run method=de" "ltx run optim.l" "ltx run optim.lr"; do
        COMP_POINT=${#COMP_LINE}; COMPREPLY=(); _ltx; echo "${COMPREPLY[@]}"
    done
    """
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = f"compopt() {{ echo no space; }}\n{SCRIPT}\n{asked}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines() == ["dense", "optim.label_smoothing= optim.lr=", "no space", "optim.lr="]


def test_asking_loads_neither_torch_nor_hydra() -> None:
    code = "import sys, ltx.cli.complete; sys.exit(any(name in sys.modules for name in ('torch', 'hydra')))"
    subprocess.run([sys.executable, "-c", code], check=True)
