"""Any file of a run may be damaged in any way: no command ends by it, and the same one makes the run whole again."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import TINY, call, only, results, tree

NOT_DERIVED_AGAIN = ("plots/levels.png", "manifest.json")  # a picture has a moment's fonts, a manifest has times


def truncate(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content) or 1)])


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes() or b"x")
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def overwrite(content: bytes) -> Callable[[Path, random.Random], None]:
    def damage(path: Path, rng: random.Random) -> None:
        path.write_bytes(content)

    return damage


def folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").write_text("in it")


def link_to_nothing(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def pipe(path: Path, rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def unreadable(path: Path, rng: random.Random) -> None:
    path.chmod(0)


def another_file(path: Path, rng: random.Random) -> None:
    """Put another file of a run of the same root in this one's place."""
    others = [p for p in sorted(path.parents[3].rglob("*")) if p.is_file() and p != path and p.suffix == path.suffix]
    shutil.copyfile(rng.choice(others), path) if others else path.write_bytes(b"")


def stray(path: Path, rng: random.Random) -> None:
    shutil.copyfile(path, path.with_name(f"{path.stem}_copy{path.suffix}"))


def gone(path: Path, rng: random.Random) -> None:
    path.unlink()


DAMAGES = {
    **{f.__name__: f for f in (truncate, flip, folder, link_to_nothing, pipe, unreadable, another_file, stray, gone)},
    "empty": overwrite(b""),
    "null": overwrite(b"null"),
    "a list": overwrite(b"[1, 2]"),
    "not UTF-8": overwrite(b"\xff\xfe\x00 \xc3\x28"),
    "control characters": overwrite(b'{"reason": "\\u001b[2J\\u0007", "seeds": "\\u001b"}\n'),
    "deeply nested": overwrite(b"[" * 100_000),
    "yaml bomb": overwrite(b"a: &a [x, x]\n" + b"".join(b"b%d: &b%d [*a, *a]\n" % (i, i) for i in range(50))),
}
SIDE_FILES = ("failed.json", "partial.safetensors")  # of a seed, which a finished run does not have


@pytest.fixture(scope="session")
def two_runs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a root with the tiny run and another one."""
    root = tmp_path_factory.mktemp("two")
    shutil.copytree(tiny, root, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        assert call("run", *TINY, "optim.lr=1e-3", root=root) == 0
    yield root


def clean(text: str) -> bool:
    """Tell whether a text has no control character that could drive a terminal."""
    return all(c.isprintable() or c in "\n\t" for c in text)


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a claim that is nobody's over after a fifth of a second instead of four."""
    monkeypatch.setattr("ltx.store.claims.PATIENCE", 0.2)


def damaged_once(number: int, root: Path, tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Damage one file and hold what must hold: status, show and of= go on, and run mends it."""
    rng = random.Random(number)
    run = root / "runs" / only(tiny).name
    expected, summary = results(run), (run / "summary.csv").read_bytes()
    names = sorted([name for name, content in tree(run).items() if content != b"/"])
    names += [f"seed_000/{name}" for name in SIDE_FILES] + ["lock", "wandb.lock", "seed_000/claim"]
    path = run / rng.choice(names)
    how = rng.choice(sorted(DAMAGES))
    if not path.exists():
        path.write_bytes(b'{"reason": "it failed"}')
    DAMAGES[how](path, rng)
    what = f"{number}: {path.relative_to(run)}, {how}"
    capfd.readouterr()
    codes = {
        "status": call("status", root=root),
        "show": call("show", run.name, root=root),
        "of": call("run", "method=control", "method.kind=shuffle", f"of={run.name}", "--dry-run", root=root),
    }
    first = call("run", *TINY, root=root)
    again = call("run", *TINY, "retry_failed=true", root=root) if first else 0
    said = "".join(capfd.readouterr())
    assert codes["status"] == codes["show"] == 0, f"{what}: {said}"
    assert codes["of"] in (0, 2), f"{what}: {said}"
    assert first in (0, 3) and again == 0, f"{what}: {said}"
    assert "Traceback" not in said and clean(said), f"{what}: {said}"
    found = {name: value for name, value in results(run).items() if ".damaged-" not in name and "_copy" not in name}
    assert found == expected, what
    assert (run / "summary.csv").read_bytes() == summary, what


@pytest.mark.parametrize("part", range(5))
def test_a_run_survives_random_damage_to_any_of_its_files(part, two_runs, tiny, tmp_path, capfd):
    for number in range(6 * part, 6 * part + 6):
        root = tmp_path / str(number)
        shutil.copytree(two_runs, root, symlinks=True)
        damaged_once(number, root, tiny, capfd)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_a_run_survives_a_thousand_random_damages(part, two_runs, tiny, tmp_path, capfd):
    for number in range(1000 + 100 * part, 1100 + 100 * part):
        root = tmp_path / str(number)
        shutil.copytree(two_runs, root, symlinks=True)
        damaged_once(number, root, tiny, capfd)
        shutil.rmtree(root)
