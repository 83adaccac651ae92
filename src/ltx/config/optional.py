"""Words for what only some classes have: `?method.levels=2` is set where the field exists and dropped elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from ltx.config.compose import compose, parse
from ltx.config.defaults import Defaults
from ltx.config.names import GROUPS
from ltx.config.schema import having, takes
from ltx.config.words import key_of
from ltx.errors import BadInput, nearest


def settled(points: Sequence[list[str]], config_dirs: list[str], own: Defaults) -> list[list[str]]:
    """Return the words of every point with each `?` word written plainly, or dropped where its class lacks the field.

    Points that differ in nothing then are one. Raises BadInput for a field that no point has; of a single run, which a
    script may repeat over many classes, for one that no class of ltx's own has either.
    """
    if not any(word.startswith("?") for words in points for word in words):
        return list(points)
    found: list[list[str]] = []
    classes: dict[str, set[str]] = {}  # by group, those that the points choose
    asked, taken = set(), set()
    for words in points:
        config = compose([word for word in words if not word.startswith("?")], config_dirs, own)
        kept = []
        for word in words:
            if word.startswith("?"):
                group, field = field_of(word)
                name = config[group]["name"]
                classes.setdefault(group, set()).add(name)
                asked.add((group, field))
                if not takes(group, name, field):
                    continue
                taken.add((group, field))
            kept.append(word.removeprefix("?"))
        if len(kept) == len(words) or kept not in found:
            found.append(kept)
    for group, field in sorted(asked - taken):
        offered = {*having(group, *classes[group]), *(having(group) if len(points) == 1 else ())}
        if field not in offered:
            names = " or ".join(f"{group}={name}" for name in sorted(classes[group]))
            raise BadInput(f"?{group}.{field} is a field of no point here, {names}{nearest(field, offered)}")
    return found


def field_of(word: str) -> tuple[str, str]:
    """Return the group and the field of a `?` word. Raises BadInput for anything else than one value of a field."""
    group, dot, rest = key_of(word).partition(".")
    if group not in GROUPS or not dot:
        raise BadInput(f"{word}: a ? stands before a field of {', '.join(GROUPS)}, as in ?method.levels=2.")
    if parse(word.removeprefix("?")).is_sweep_override():
        raise BadInput(f"{word} is several values: -m runs a point for each, [1,2] is a list.")
    return group, rest.partition(".")[0]
