"""What `--help` says of a group's fields: values and comments from its yaml, types and ranges from its class."""

from __future__ import annotations

import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from ltx.cli.listing import about, beside, find_yaml
from ltx.config.names import CONF, GROUPS, shown
from ltx.config.words import head_of, key_of, text


def fields(words: list[str], width: int) -> list[str]:
    """Return the fields of every group that words choose, with default, type, range and comment. Raises BadInput."""
    folders = [after for word, after in zip(words, [*words[1:], ""], strict=True) if word in ("--config-dir", "-cd")]
    folders += [word.partition("=")[2] for word in words if word.startswith(("--config-dir=", "-cd="))]
    lines: list[str] = []
    for group in dict.fromkeys(head_of(word) for word in words if "=" in word and head_of(word) in GROUPS):
        of_group = [word.lstrip("+?") for word in words if "=" in word and head_of(word) == group]
        chosen = [word.partition("=")[2] for word in of_group if key_of(word) == group] or [usual()[group]]
        named = [word for word in of_group if key_of(word) == f"{group}.name"]
        for name in chosen[-1].split(","):
            lines += [*fields_of(group, name, named, folders, width), ""]
    return lines[:-1]


def fields_of(group: str, choice: str, named: list[str], folders: list[str], width: int) -> list[str]:
    """Return the lines about one choice of a group; its class, and torch with it, is imported for what it takes."""
    from ltx.config.compose import compose
    from ltx.config.names import find
    from ltx.config.schema import schema_of
    from ltx.config.signatures import ABOUT, pretrained

    node = compose([f"{group}={choice}", *named], folders)[group]
    target = find(group, node["name"])
    path = find_yaml(group, choice, folders)
    said, content = about(path)
    title = f"{group}={choice}" + (f" ({shown(node['name'])})" if node["name"] != choice else "")
    lines = [*textwrap.wrap(f"{title}: {said}", width, subsequent_indent="    "), ""]
    comments = {**(ABOUT if group == "model" and pretrained(target) else {}), **documented(target), **comments_of(path)}
    rows = []
    for name, (hint, default) in schema_of(group, target)[0].items():
        value = node.get(name, default)
        kind, comment = worded(hint), comments.get(name, "")
        head, _, rest = comment.partition("; ")
        if {*head.split(" | ")} == {*kind.split(" | ")} - {"null"}:
            comment = rest
        shown_value = "VALUE" if value is ... else text(value)
        rows.append((f"  {group}.{name}={shown_value}", "; ".join(part for part in (kind, comment) if part)))
    column = min(2 + max([len(name) for name, _ in rows], default=0), 32)
    lines += [line for name, line_of in rows for line in beside(name, line_of, column, width)] or ["  no fields"]
    also = {**overridden(content), **(content.get("recipe") or {})}
    if also:
        setting = " ".join(f"{key}={text(value)}" for key, value in also.items())
        lines += ["", *textwrap.wrap(f"Where nothing else is given it also sets {setting}.", width)]
    return lines


def overridden(content: dict[str, Any]) -> dict[str, str]:
    """Return the choices of other groups that a yaml makes, from its `override /optim@_global_.optim: sgd`."""
    ones = [one for one in content.get("defaults", []) if isinstance(one, dict)]
    pairs = [(key.removeprefix("override /"), value) for one in ones for key, value in one.items()]
    return {key.partition("@")[0]: value for key, value in pairs}


def comments_of(path: Path) -> dict[str, str]:
    """Return the comment beside each field of a yaml, those of the yamls that it inherits from first."""
    content = about(path)[1]
    below = [path.with_name(f"{one}.yaml") for one in content.get("defaults", []) if isinstance(one, str)]
    inherited = [comments_of(other) for other in below if other.is_file()]
    own = {name: comment for name, _, comment, _ in commented(path.read_text()) if comment}
    return {name: comment for one in [*inherited, own] for name, comment in one.items()}


def documented(target: Callable[..., Any]) -> dict[str, str]:
    """Return what the docstrings of a class and its bases say of each field, as `name: text`."""
    found = {}
    for owner in reversed(target.__mro__) if inspect.isclass(target) else [target]:
        lines = inspect.cleandoc(owner.__doc__ or "")
        for match in re.finditer(r"^(\w+): (.+(?:\n +.+)*)", lines, re.MULTILINE):
            found[match[1]] = " ".join(match[2].split()).rstrip(".")
    return found


BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def worded(hint: Any) -> str:
    """Return a type in words: `int >= 0`, `global | layer`, `list of int`; nothing where everything is taken."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        parts = [part for one in inner[1:] for part in getattr(one, "metadata", [one])]
        bounds = [
            f"{sign} {getattr(part, name)}" for part in parts for name, sign in BOUNDS.items() if hasattr(part, name)
        ]
        return " ".join([worded(inner[0]), ", ".join(bounds)]).strip()
    if origin is Literal:
        return " | ".join(text(value) for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(filter(None, map(worded, inner)))
    if origin is list:
        return f"list of {worded(inner[0])}"
    if origin is dict:
        return f"{{NAME: {worded(inner[1])}}}"
    return {bool: "true | false", type(None): "null", Any: ""}.get(hint, getattr(hint, "__name__", ""))


def commented(source: str) -> list[tuple[str, str, str, str]]:
    """Return name, value, comment and the comment in the lines above of every key of a yaml, in its order."""
    lines, found = source.splitlines(), []

    def walk(node: yaml.MappingNode, prefix: str) -> None:
        for key, value in node.value:
            name, at = f"{prefix}{key.value}", value.end_mark
            if isinstance(value, yaml.MappingNode) and not value.flow_style:
                walk(value, f"{name}.")
                continue
            comment = lines[at.line][at.column :].partition("#")[2].strip() if at.line < len(lines) else ""
            above = " ".join(reversed([*comments_above(lines, key.start_mark.line)]))
            held = source[value.start_mark.index : at.index]
            found.append((name, "" if "${" in held else held, comment, above))

    walk(yaml.compose(source), "")
    return found


def comments_above(lines: list[str], line: int) -> Iterator[str]:
    """Yield the comments in the lines right above one, from below."""
    while line > 0 and lines[line - 1].startswith("#"):
        line -= 1
        yield lines[line].lstrip("# ")


def usual() -> dict[str, Any]:
    """Return the choice of each group that run.yaml makes."""
    listed = yaml.safe_load((CONF / "run.yaml").read_text())["defaults"]
    return {group: choice for one in listed if isinstance(one, dict) for group, choice in one.items()}
