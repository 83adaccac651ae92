"""A person's own defaults: a yaml file whose values stand in the place of those of conf/run.yaml."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ltx.config.names import GROUPS
from ltx.config.words import key_of, quoted
from ltx.errors import BadInput, nearest

OF_A_COMMAND = ("trunk", "of", "experiment")  # as a default each would make every run another kind of run


@dataclass(frozen=True)
class Defaults:
    """The values of a person's file by dotted key; a group's own key, as `optim`, holds its choice."""

    file: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    def only(self, keys: set[str]) -> Defaults:
        """Return these defaults with some of their keys."""
        return replace(self, values={key: value for key, value in self.values.items() if key in keys})

    def plumbing(self) -> list[str]:
        """Return what changes no result as words of a command line, for figures, whose other values are fixed."""
        from ltx.config.names import PLUMBING

        keys = [key for key in self.values if key != "seeds" and key.partition(".")[0] in PLUMBING]
        return [f"{key}={quoted(self.values[key])}" for key in keys]

    def command(self, words: list[str]) -> list[str]:
        """Return a command as a manifest has it: with the file whose values it took."""
        return [f"LTX_DEFAULTS={self.file}", *words] if self.values else words

    def blamed(self, error: BadInput, words: list[str]) -> BadInput:
        """Return the error, and with it the file where a value that it names stands there and not in the words."""
        if f"{self.file}:" in str(error):
            return error
        typed = {key_of(word) for word in words}
        named = [key for key in self.values if key not in typed and re.search(rf"{re.escape(key)}(?=[= ])", str(error))]
        return BadInput(f"{error} {' and '.join(named)}: from {self.file}.") if named else error


NONE = Defaults()


class Loader(yaml.SafeLoader):
    """YAML that reads 1e-3 as a number, as Hydra does on the command line."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"), list("-+.0123456789")
)


def place() -> Path | None:
    """Return the file of a person's defaults, None where there is none. Raises BadInput for one named in vain."""
    named = os.environ.get("LTX_DEFAULTS")
    if named is None:
        home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
        usual = Path(home) / "ltx" / "run.yaml"
        return usual if usual.is_file() else None
    if named and not Path(named).is_file():
        raise BadInput(f"LTX_DEFAULTS={named} is not a file; leave it empty to use no defaults of your own.")
    return Path(named) if named else None


def content(file: Path) -> dict[str, Any]:
    """Return what the file holds, by dotted key. Raises BadInput, naming the line where it is not yaml."""
    try:
        found = yaml.load(file.read_text(encoding="utf-8"), Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise BadInput(f"{file}{line} is not yaml: {error.problem or error.context}.") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise BadInput(f"{file} cannot be read as yaml: {' '.join(str(error).split())}.") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadInput(f"{file} should hold lines like `workers: 2`, not a {type(found).__name__}.")
    values: dict[str, Any] = {}
    for key, value in found.items():
        inner = value if isinstance(value, dict) and "." not in str(key) else {None: value}
        values |= {str(key) if name is None else f"{key}.{name}": held for name, held in inner.items()}
    if "root" in values:
        values["root"] = os.path.expandvars(os.path.expanduser(str(values["root"])))
    return values


def read() -> Defaults:
    """Return a person's defaults, checked but for the groups' fields, which the chosen class decides. Raises BadInput.

    The environment's LTX_OUTPUT wins over a root in the file.
    """
    from ltx.config.schema import RunConfig, check_value
    from ltx.config.signatures import is_plain

    file = place()
    if file is None:
        return NONE
    values = content(file)
    for key, value in values.items():
        head = key.partition(".")[0]
        if head in OF_A_COMMAND:
            raise BadInput(f"{file}: {head} belongs to a command and is no default; give it to `ltx run`.")
        if head not in RunConfig.model_fields:
            known = {*RunConfig.model_fields} - {*OF_A_COMMAND}
            raise BadInput(f"{file}: '{head}' is not a key of a run{nearest(head, known)}")
        if not is_plain(value):
            raise BadInput(f"{file}: {key}={value} is neither a number nor a text, nor a list or set of these.")
        try:
            check_value(key, value)
        except BadInput as error:
            raise BadInput(f"{file}: {error}") from error
    if os.environ.get("LTX_OUTPUT"):
        values.pop("root", None)
    return Defaults(file, values)


def root() -> str | None:
    """Return the output root that the file names, without checking anything else of it."""
    file = place()
    return content(file).get("root") if file else None


def fitting(own: Defaults, names: Mapping[str, str]) -> Defaults:
    """Return the defaults without the fields of groups that the chosen classes do not have, `names` by group.

    A control follows its trunk in what it is not told, so that no field of a method is meant for it. Raises BadInput
    for a field that no class of its group has.
    """
    from ltx.config.schema import having, takes

    def fits(key: str) -> bool:
        group, dot, rest = key.partition(".")
        if group not in GROUPS or not dot:
            return True
        name, wanted = names[group], rest.partition(".")[0]
        if name != "???" and takes(group, name, wanted):
            return (group, name) != ("method", "control")
        if wanted not in having(group):
            raise BadInput(f"{own.file}: {key} is a field of no {group}{nearest(wanted, having(group))}")
        return False

    return own.only({key for key in own.values if fits(key)})
