"""What the tests share: the command line called in process, a finished tiny run, and folders as bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before torch and numpy are loaded, here and in the processes that tests start: threads that wait for each other burn
# the cores that the workers of pytest share.
os.environ["OMP_NUM_THREADS"] = "1"
# Each process that tests start would otherwise compile all of ltx again, which takes two seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import pytest
from standin_slurm import write_slurm

from ltx.config.spec import Spec
from ltx.report import page, run_picture, sweep_picture
from ltx.report.page_data import Content
from ltx.report.tables import Label
from ltx.store.rows import Row
from ltx.store.seeds import SeedFolder

TINY = ("method.levels=1", "optim.steps=20", "width=.05", "seeds=2")
REAL_PICTURE, REAL_SWEEP, REAL_PAGE = run_picture.draw, sweep_picture.draw_sweep, page.page
LONG = ("method.levels=1", "optim.steps=250", "width=.05", "seeds=3", "trainer.checkpoint_seconds=.04")  # half a second


@dataclass(frozen=True)
class Result:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def folder(self) -> Path:
        """The run directory that the last line names."""
        lines = [line for line in self.out.splitlines() if line.startswith("run:")]
        assert lines, self.out + self.err
        return Path(lines[-1].removeprefix("run:").split(" (")[0].strip())


def call(*argv: str, root: Path) -> int:
    """Call the command line with an output root; `run` trains in this process unless told otherwise."""
    from ltx.cli import main

    words = [*argv]
    if not any(word.startswith("root=") for word in words):
        words.insert(1, f"root={root}")
    if words[0] == "run" and not any(word.startswith("workers=") for word in words):
        words.insert(1, "workers=0")
    return main(words)


def start(*words: str, patch: str = "") -> subprocess.Popen[str]:
    """Start the command line in an interpreter of its own, after the Python of `patch`."""
    command = [sys.executable, "-c", f"{patch}\nfrom ltx.cli import entry; entry()", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def plain_picture(rows: list[Row], title: str, training: str, score: tuple[str, float]) -> Any:
    """Draw a run's title alone, a tenth of the work; with the arguments of the real one, so that a call is checked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1))
    figure.text(0, 0, title, parse_math=False)
    return figure


def plain_sweep(specs: list[Spec], labels: list[Label], rows: list[list[Row]], chosen: str | None = None) -> Any:
    """Draw a sweep's size alone."""
    return plain_picture([], f"{len(specs)} points", "", ("", 0))


def plain_page(content: Content, place: Path) -> str:
    """Return a page with its title alone, which needs no picture."""
    return content.title


@pytest.fixture(autouse=True, scope="session")
def heard() -> Iterator[None]:
    """Hear Ctrl-C and the closing of a terminal: `&`, `nohup` and some schedulers have a process ignore them."""
    ctrl_c, closing = (signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, ctrl_c)
    signal.signal(signal.SIGHUP, closing)


@pytest.fixture(scope="session", autouse=True)
def coarse_pictures() -> Iterator[None]:
    """Draw pictures coarsely, those of runs and sweeps and pages with a title alone, a third of a small run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ltx.report.plots.DPI", 30)
        patch.setattr("ltx.report.plots.FONTS", 3)
        patch.setattr("ltx.report.run_picture.draw", plain_picture)
        patch.setattr("ltx.report.sweep_picture.draw_sweep", plain_sweep)
        patch.setattr("ltx.report.page.page", plain_page)
        yield


@pytest.fixture(scope="session", autouse=True)
def short_waits() -> Iterator[None]:
    """Leave out what costs each small level more than its training, and that no test looks at.

    Waiting for the disk matters where the machine itself fails; killing a process loses nothing that was written. For
    every Trainer Lightning looks through all installed packages for callbacks that these might add.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda file: None)
        patch.setattr("lightning.pytorch.trainer.connectors.callback_connector._load_external_callbacks", lambda _: [])
        yield


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a stand-in for Slurm, whose commands are on the PATH."""
    monkeypatch.setenv("PATH", f"{write_slurm(tmp_path / 'cluster')}:{os.environ['PATH']}")
    return tmp_path / "cluster"


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the seeds of each stack that is trained in this process."""
    from ltx.training import replicas

    found, train_stack = [], replicas.train_stack

    def counted(setups: Any, *rest: Any) -> Any:
        found.append(len(setups))
        return train_stack(setups, *rest)

    monkeypatch.setattr(replicas, "train_stack", counted)
    return found


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the runs of a test have their real pictures; `test_pictures` looks at what is on them."""
    monkeypatch.setattr("ltx.report.run_picture.draw", REAL_PICTURE)
    monkeypatch.setattr("ltx.report.sweep_picture.draw_sweep", REAL_SWEEP)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test have whole pages."""
    monkeypatch.setattr("ltx.report.page.page", REAL_PAGE)


@pytest.fixture(scope="session", autouse=True)
def no_defaults_of_ones_own() -> Iterator[None]:
    """Keep the defaults file of who runs the tests out of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LTX_DEFAULTS", "")
        yield


@pytest.fixture(scope="session", autouse=True)
def cache_of_ones_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep decoded images of tests out of the home of who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LTX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in an empty folder, with no output root, no key and no wandb but where a test asks for it."""
    for name in ("LTX_OUTPUT", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.manual_seed(0)
        sys.modules["torch"].set_num_threads(1)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The output root of the `ltx` fixture, not there yet."""
    return tmp_path / "root"


@pytest.fixture
def ltx(root: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run a command under `root` and return its exit code, stdout and stderr."""

    def run(*argv: str) -> Result:
        capfd.readouterr()
        code = call(*argv, root=root)
        return Result(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Train the tiny run once."""
    root = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        assert call("run", *TINY, root=root) == 0
    yield root


@pytest.fixture
def finished(tiny: Path, root: Path) -> Path:
    """Return the directory of a finished tiny run under `root`, a test's own copy."""
    shutil.copytree(tiny, root)
    return only(root)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of LONG, trained in this process without a checkpoint."""
    root = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        assert call("run", *LONG, "trainer.checkpoint_seconds=60", root=root) == 0
    return only(root)


def only(root: Path) -> Path:
    """Return the one run under a root."""
    (folder,) = (root / "runs").iterdir()
    return folder


def soon(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.003)


def under_way(root: Path) -> list[Path]:
    """Return the checkpoints of levels above 0 under a root."""
    partial = root.glob("runs/*/seed_*/partial.safetensors")
    return [path for path in partial if (path.parent / "level_00.safetensors").exists()]


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, and every folder, by relative path."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"/" for path in paths}


def levels(folder: Path) -> dict[str, bytes]:
    """Return a run's level files by relative path."""
    return {name: content for name, content in tree(folder).items() if name.endswith(".safetensors")}


def results(folder: Path, *seeds: int) -> dict[str, object]:
    """Return a run's level files and its records without their seconds, of all seeds or of those named."""
    wanted = [f"seed_{seed:03d}" for seed in seeds] or [path.name for path in folder.glob("seed_*")]
    files = {name: content for name, content in levels(folder).items() if name.partition("/")[0] in wanted}
    records = {name: SeedFolder(folder / name).records() for name in wanted}
    return {**files, **{name: [{**row, "seconds": None} for row in rows] for name, rows in records.items()}}
