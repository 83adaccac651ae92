"""A run's config as flat keys: read quickly for many runs, compared between runs, and asked for by a person."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ltx.config.names import GROUPS, PLUMBING, shown
from ltx.errors import BadInput
from ltx.store.files import Damaged, plain_yaml, text

Flat = dict[str, Any]  # `optim.lr`, `trunk.method.fraction` and the like; a list is one value
DIGEST, DIGITS = "model.weights_digest", 8
NOT_SAID = ("seeds", "method.levels", "trunk.seeds", "trunk.method.levels")  # a table counts seeds and levels


def flatten(config: Mapping[str, Any], prefix: str = "") -> Flat:
    """Return a config's values by their dotted keys; those that are null are left out, as they are of a run's key."""
    found: Flat = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            found |= flatten(value, f"{key}.")
        elif value is not None:
            found[key] = value
    return found


def without_plumbing(flat: Flat) -> Flat:
    """Return the values that can change a result, and the seeds.

    A file stands for itself by the first digits of its digest: wherever it lies, its path changes nothing.
    """
    own = [name for name in PLUMBING if name != "seeds"]

    def changes(key: str) -> bool:
        head, _, rest = key.removeprefix("trunk.").partition(".")
        if head == "data" and rest in ("path", "decoders"):  # an argument of a user's own class is theirs
            return ":" in str(flat.get(f"{key.removesuffix(rest)}name"))
        return head not in own and (head != "trainer" or rest == "precision") and f"{key}_digest" not in flat

    return {key: str(value)[:DIGITS] if key.endswith(DIGEST) else value for key, value in flat.items() if changes(key)}


def own_values(flat: Flat) -> Flat:
    """Return a config without what its trunk has in common with it: the trunk takes most values over."""
    return {
        key: value
        for key, value in flat.items()
        if not key.startswith("trunk.") or flat.get(key.removeprefix("trunk.")) != value
    }


def read(path: Path) -> Flat:
    """Return the flat config of a run's directory, without plumbing. Raises Damaged.

    The configs of many runs differ in few lines, and yaml is slow: what is alike in all of them is read once.
    """
    found = text(path / "config.yaml")
    if found is None:
        raise Damaged(f"{path / 'config.yaml'} is not there")
    config: dict[str, Any] = {}
    try:
        for part in re.split(r"\n(?=\w)", found):
            config |= by_fields(part) or part_of(part)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Damaged(f"{path / 'config.yaml'} is no config ({type(error).__name__})") from error
    return without_plumbing(flatten(config))


def by_fields(part: str) -> dict[str, Any]:
    """Return a group of a config whose fields are each read by itself, or nothing where that is not possible."""
    head, *fields = re.split(r"\n(?=  \w)", part)
    if not fields or not re.fullmatch(r"\w+:", head):
        return {}
    try:
        return {head[:-1]: {name: value for field in fields for name, value in part_of(field).items()}}
    except (yaml.YAMLError, ValueError):
        return {}


@functools.lru_cache(maxsize=10_000)
def part_of(part: str) -> dict[str, Any]:
    """Return a key of a config with its value. Raises what yaml raises, ValueError where it is no key."""
    value = plain_yaml(part)
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{part[:20]!r} holds no key and value")
    return value


def group_of(key: str) -> str | None:
    """Return the group that a key is a field of, with its dot, None for a key of the top level."""
    group = re.match(rf"(trunk\.)*({'|'.join(GROUPS)})\.", key)
    return group and group[0]


def differing(configs: Sequence[Flat]) -> list[Flat]:
    """Return, for every config, the values by which it differs from others of its method.

    A field of a group is compared among those that have the same member of it: that Adam has no momentum is no
    difference. Names of method, model and data, the width, seeds and levels are left out.
    """
    named = ("method.name", "model.name", "data.name", "width", *NOT_SAID)
    views = [own_values(config) for config in configs]
    keys = dict.fromkeys(key for view in views for key in view if key not in named)
    found: list[Flat] = [{} for _ in views]
    for key in keys:
        group = group_of(key)
        sorts = [(view.get("method.name"), group and view.get(f"{group}name")) for view in views]
        values: dict[tuple[object, ...], set[str]] = {}
        for view, sort in zip(views, sorts, strict=True):
            values.setdefault(sort, set()).add(str(view.get(key)))
        for view, sort, differs in zip(views, sorts, found, strict=True):
            if len(values[sort]) > 1 and key in view:
                differs[key] = view[key]
    return found


def value_of(flat: Flat, key: str) -> Any:
    """Return what a config says of a key; a group's key stands for its member's name."""
    return flat.get(f"{key}.name" if f"{key}.name" in flat else key)


def keys_of(configs: Iterable[Flat]) -> list[str]:
    """Return every key that can be asked for of some configs."""
    keys = dict.fromkeys(key for flat in configs for key in flat if key not in ("seeds", "trunk.seeds"))
    return [*keys, *(key.removesuffix(".name") for key in keys if key.endswith(".name"))]


def matches(value: Any, asked: str) -> bool:
    """Tell whether a value is one of those that a person typed, separated by commas: `1` is 1.0, a class its name."""
    words = [asked, *asked.split(",")]
    names = (str(value), shown(value), str(value).rpartition(":")[2])
    return value in [typed(word) for word in words] or any(name in words for name in names)


def typed(word: str) -> Any:
    """Return the value of a typed word: a number (yaml takes 3e-3 for a text), else what yaml makes of it."""
    try:
        return float(word)
    except ValueError:
        pass
    try:
        return yaml.safe_load(word)
    except yaml.YAMLError as error:
        raise BadInput(f"{word} cannot be read as a value: {' '.join(str(error).split())}.") from error


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Return the last part of every key, the whole key where two have the same."""
    keys = list(dict.fromkeys(keys))
    last = {key: key.rpartition(".")[2] for key in keys}
    return {key: name if [*last.values()].count(name) == 1 else key for key, name in last.items()}


def value_text(value: Any) -> str:
    """Write a value as it is typed."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(map(value_text, value)) + "]"
    return f"{value:.12g}" if isinstance(value, float) else str(value)
