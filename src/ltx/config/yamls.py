"""The yaml files of the groups: which there are, and what is wrong with one of the user's own."""

from __future__ import annotations

from pathlib import Path

import yaml

from ltx.config.names import CONF
from ltx.errors import BadInput, nearest
from ltx.store.files import Damaged, text, yaml_problem


def choices(group: str, extra: list[str]) -> list[str]:
    """Name the yaml files of a group, the user's own folders included."""
    folders = [CONF, *map(Path, extra)]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def where_own(group: str, name: str, extra: list[str]) -> str:
    """Return where a choice of the user's own could stand."""
    if ":" in name:
        if group in ("data", "model"):
            return f" Your own: {group}=own {group}.name={name}."
        return f" Your own: a yaml with `name: {name}`, in the folder {group} of a --config-dir."
    looked = " and ".join(f"{folder}/{group}/*.yaml" for folder in extra)
    return f" Looked for in {looked} too." if extra else ""


def check_own_yaml(group: str, name: str, extra: list[str], above: tuple[str, ...] = ()) -> None:
    """Raise BadInput with file and line where a yaml of the user's own cannot be what they mean.

    Hydra lets a list of defaults without _self_ win over the file's own values, and does not say so.
    """
    path = next((p for folder in extra if (p := Path(folder) / group / f"{name}.yaml").exists()), None)
    if path is None:
        return
    try:
        content = yaml.safe_load(text(path) or "")
    except Damaged as error:
        raise BadInput(f"{error}.") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{path}{yaml_problem(error)}.") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path} holds no keys and values; a yaml of the group {group} has lines `key: value`.")
    defaults = content.get("defaults", [])
    if not isinstance(defaults, list):
        raise BadInput(f"{path}: defaults should be a list, `defaults: [{defaults}, _self_]`.")
    bases = [base for base in defaults if isinstance(base, str) and base != "_self_"]
    if bases and "_self_" not in defaults:
        raise BadInput(
            f"{path}: without _self_ the values of {bases[-1]} win over those of this file; write "
            f"`defaults: [{', '.join(bases)}, _self_]`."
        )
    for base in bases:
        if base not in choices(group, extra):
            raise BadInput(f"{path}: defaults name {base}, which is unknown{nearest(base, choices(group, extra))}")
        if base in (*above, name):
            raise BadInput(f"{path}: defaults lead back to {base} itself; inherit from another one.")
        check_own_yaml(group, base, extra, (*above, name))


def check_shadowed(name: str, extra: list[str]) -> None:
    """Raise BadInput where a file of the user's differs from ltx's own of the same name, which Hydra finds first."""
    own = CONF / name
    for path in (Path(folder) / name for folder in extra):
        if own.is_file() and path.is_file() and path.read_bytes() != own.read_bytes():
            raise BadInput(f"{path} has the name of a file of ltx's own, which is used instead; give it another name.")
