"""What `ltx clean` may remove: what failed, what is left of levels under way, and runs that nothing stands on."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ltx.config.names import readable
from ltx.errors import BadInput, notice
from ltx.report.progress import under_way
from ltx.store.claims import PATIENCE, Claim, living
from ltx.store.files import Damaged, is_left_over, read_yaml, size
from ltx.store.find import find_run, run_keys
from ltx.store.folders import RunFolder
from ltx.store.seeds import SEED, SeedFolder
from ltx.store.sweeps import sweeps

FOLDERS = ("runs", "sweeps", "figures", "compare", "progress")  # of an output root
SET_ASIDE = re.compile(r".+\.damaged-[0-9a-f]{6}")
HALF_REMOVED = re.compile(r".+\.removed~[0-9a-f]{6}")  # no name of a run may have a ~


@dataclass(frozen=True)
class Leftover:
    """What can be removed together: its paths, their bytes, and the claims that nobody else may hold meanwhile."""

    run: str
    what: str
    paths: tuple[Path, ...]
    claims: tuple[Path, ...]
    bytes: int


def leftover(run: str, what: str, paths: Iterable[Path], claims: Iterable[Path]) -> Leftover:
    """Return what can be removed together, with its size."""
    there = tuple(path for path in paths if os.path.lexists(path))
    return Leftover(run, what, there, tuple(claims), sum(map(size, there)))


def failed_seeds(root: Path) -> list[Leftover]:
    """Return what the failed seeds keep of their failures: the reason, and the checkpoint."""
    found = [folder for folder in own_seeds(root) if folder.failure()]
    return [
        leftover(f.path.parent.name, f"failure of seed {f.seed}", (f.failure_path, f.partial_path), [f.claim_path])
        for f in found
    ]


def under_way_left(root: Path) -> list[Leftover]:
    """Return the checkpoints of levels under way, and files that killed processes left or that were set aside."""
    found = [
        leftover(f.path.parent.name, f"checkpoint of seed {f.seed}", [f.partial_path], [f.claim_path])
        for f in own_seeds(root)
        if os.path.lexists(f.partial_path)
    ]
    together: dict[tuple[str, str, tuple[Path, ...]], list[Path]] = {}
    for what, path in scraps(root):
        run, claims = whose(path.relative_to(root))
        together.setdefault((run, what, tuple(root / claim for claim in claims)), []).append(path)
    return found + [leftover(run, what, paths, claims) for (run, what, claims), paths in together.items()]


def own_seeds(root: Path) -> Iterator[SeedFolder]:
    """Yield the folders of all seeds under the root, without those that a link leads to."""
    for key in run_keys(root):
        path = root / "runs" / key
        if not path.is_symlink():
            yield from (folder for folder in RunFolder(path).seeds() if not folder.path.is_symlink())


def scraps(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield what killed writers left, what was set aside as damaged, and what was removed by half; follows no link."""
    kinds: dict[str, Callable[[str], object]] = {
        "temporary files": is_left_over,
        "set aside": SET_ASIDE.fullmatch,
        "half removed": HALF_REMOVED.fullmatch,
    }
    for start in FOLDERS:
        for place, folders, files in os.walk(root / start):
            found = {name: what for what, kind in kinds.items() for name in (*folders, *files) if kind(name)}
            yield from ((what, Path(place) / name) for name, what in sorted(found.items()))
            folders[:] = [name for name in folders if name not in found]


def whose(path: Path) -> tuple[str, tuple[Path, ...]]:
    """Return of a path below the root the run that it belongs to, "-" for none, and whose claim it is under."""
    if path.parts[0] != "runs" or len(path.parts) < 3:
        return "-", ()
    run = RunFolder(Path(*path.parts[:2]))
    in_seed = len(path.parts) > 3 and SEED.fullmatch(path.parts[2])
    return run.path.name, ((SeedFolder(run.path / path.parts[2]) if in_seed else run).claim_path,)


def without_claimed(found: Sequence[Leftover]) -> list[Leftover]:
    """Return what no living process works on; what is left out is said."""
    holders = living(dict.fromkeys(claim for one in found for claim in one.claims))
    for one in found:
        for claim in {*one.claims} & {*holders}:
            notice(f"{one.run}: {one.what}: {holders[claim]} works on it; it stays.")
    return [one for one in found if not {*one.claims} & {*holders}]


def whole_runs(words: Sequence[str], root: Path) -> list[Leftover]:
    """Return the runs that words mean, those that stand on others first.

    Raises BadInput where one lies elsewhere, is worked on, or has another run standing on it that is to stay.
    """
    paths = {path.name: path for path in (run_under(word, root) for word in words)}
    waiting = {key: command for command in under_way(root / "progress") for key in command["runs"]}
    claims = {key: RunFolder(path).claim_paths for key, path in paths.items()}
    holders = living(claim for own in claims.values() for claim in own)
    for key, own in claims.items():
        workers = [holders[claim] for claim in own if claim in holders]
        workers += [f"the command {waiting[key]['title']}"] if key in waiting else []
        if workers:
            raise BadInput(f"nothing was removed, for {workers[0]} works on {key}.")
    unborn = next((key for key in waiting if not RunFolder(root / "runs" / key).is_run()), None)
    if unborn:  # its folder does not say yet what it stands on
        raise BadInput(
            f"nothing was removed: {waiting[unborn]['title']} is under way and has still to begin {unborn}, which may "
            "stand on any run; wait for it, or interrupt it."
        )
    above: dict[str, set[str]] = {key: set() for key in paths}
    for key in run_keys(root):
        for trunk in stands_on(root / "runs" / key, {*paths} - {key}):
            above[trunk].add(key)
    for key, others in above.items():
        if staying := sorted(others - {*paths}):
            raise BadInput(
                f"nothing was removed, for {key} is the trunk of {', '.join(staying)}; name what stands on it too, to "
                "remove it with its trunk."
            )
    order: list[str] = []
    while len(order) < len(paths):  # what stands on others goes first, so that an interruption leaves no run without
        ready = [key for key in paths if key not in order and above[key] <= {*order}]
        order += ready or [key for key in paths if key not in order]
    return [whole_run(paths[key]) for key in order]


def run_under(word: str, root: Path) -> Path:
    """Return the directory of the run that a word means. Raises BadInput where it is not one under the root."""
    path = Path(os.path.abspath(find_run(word, root)))
    if path.parent.resolve() != (root / "runs").resolve():
        raise BadInput(f"{path} does not lie in {root / 'runs'}; name its output root with root=DIR to remove it.")
    return root / "runs" / path.name


def whole_run(path: Path) -> Leftover:
    """Return a run as one; of a link to a run the link alone."""
    if path.is_symlink():
        return leftover(path.name, "link to a run", [path], [])
    folder = RunFolder(path)
    count = sum(len(seed.levels()) for seed in folder.seeds())
    return leftover(path.name, f"run, {count} level files", [path], folder.claim_paths)


def stands_on(path: Path, keys: set[str]) -> set[str]:
    """Return those of some runs that a run stands on.

    Its level files name its trunk. Before it has any, its config has the trunk's, whose hash is not looked for: every
    run of that name then counts.
    """
    for folder in RunFolder(path).seeds():
        for level in folder.levels():
            meta = folder.meta(level)
            if meta is not None:
                return {key for key in keys if key == meta.get("trunk")}
    try:
        trunk = read_yaml(path / "config.yaml").get("trunk")
        name = readable(trunk) if isinstance(trunk, dict) else None
    except (Damaged, KeyError, TypeError, ValueError):
        return set()
    return {key for key in keys if key.rpartition("-")[0] == name}


def listed_in(root: Path) -> dict[str, list[str]]:
    """Return by run the sweeps that list it."""
    found: dict[str, list[str]] = {}
    for sweep in sweeps(root):
        for key in {point.run for point in sweep.record().points}:
            found.setdefault(key, []).append(sweep.path.name)
    return found


def remove(found: Leftover) -> str:
    """Remove what can be removed together; return why it stays, or nothing."""
    try:
        with contextlib.ExitStack() as held:
            for path in found.claims:
                claim = Claim(path)
                if path.parent.is_dir():
                    if not taken(claim):
                        return f"{claim.holder() or 'another process'} works on it"
                    held.callback(claim.release)
            for path in found.paths:
                erase(path)
    except OSError as error:
        return str(error.strerror or error)
    return ""


def taken(claim: Claim) -> bool:
    """Take a claim, a dead process's after its patience, and tell whether nobody living had it."""
    end = time.monotonic() + PATIENCE + 1
    while not (free := claim.attempt()) and time.monotonic() < end:
        time.sleep(0.05)
    return free


def erase(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it, which has another name first: never half of one."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    aside = path if HALF_REMOVED.fullmatch(path.name) else path.with_name(f"{path.name}.removed~{uuid.uuid4().hex[:6]}")
    os.replace(path, aside)
    shutil.rmtree(aside)
