"""Which run or sweep a word means: a key, a directory, or as much of a key or its hash as only one run has."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from ltx.errors import BadInput
from ltx.store.folders import RunFolder
from ltx.store.sweeps import is_key

FEW = 3  # names that a message offers


def run_keys(root: Path) -> list[str]:
    """Return the keys of the runs under an output root."""
    runs = root / "runs"
    return sorted(p.name for p in runs.iterdir() if is_key(p.name) and p.is_dir()) if runs.is_dir() else []


def hash_of(key: str) -> str:
    """Return the hash at the end of a key."""
    return key.rpartition("-")[2]


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Return the shortest word that `find_run` takes for each run: its hash, or the whole key where two share one."""
    hashes = {key: hash_of(key) for key in keys}
    times: dict[str, int] = {}
    for word in hashes.values():
        times[word] = times.get(word, 0) + 1
    return {key: word if times[word] == 1 and len(word) == 8 else key for key, word in hashes.items()}


def exact_run(name: str, root: Path) -> Path | None:
    """Return the directory of the run that a key or a directory names."""
    places = (root / "runs" / name, Path(name)) if name else ()
    return next((path for path in places if RunFolder(path).is_run()), None)


def find_run(name: str, root: Path, others: Iterable[str] = ()) -> Path:
    """Return the directory of the run that a word means. Raises BadInput naming the nearest, also of `others`."""
    exact = exact_run(name, root)
    if exact is not None:
        return exact
    keys = run_keys(root)
    begun = [key for key in keys if name and (key.startswith(name) or hash_of(key).startswith(name))]
    if len(begun) == 1:
        return root / "runs" / begun[0]
    if begun:
        shown = ", ".join(begun[:FEW]) + (", ..." if len(begun) > FEW else "")
        raise BadInput(f"{name} can mean {len(begun)} runs ({shown}); write more of the key, or its hash alone.")
    raise BadInput(f"No run is named {name} under {root / 'runs'}{few(name, [*keys, *others])}")


def few(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x' or 'y'?` for the names that are nearest to an unknown one."""
    names = sorted(set(known))
    whole = {word: key for key in names for word in (key, hash_of(key))}  # a person may have typed a hash
    found = dict.fromkeys(whole[word] for word in difflib.get_close_matches(name, whole, FEW))
    close = " or ".join(f"'{key}'" for key in found)
    if close:
        return f"; did you mean {close}?"
    return f"; `ltx status` lists the {len(names)} there are." if names else "; there are none yet."
