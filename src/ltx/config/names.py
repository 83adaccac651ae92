"""What a name in a config means: a module of ltx, or a class of the user's own, looked at before it is used."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
import sys
import typing
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import yaml

from ltx.errors import BadInput, closest, described, nearest

SOURCE = Path(__file__).parents[1]
PACKAGED = SOURCE / "conf"
CONF = (
    PACKAGED if PACKAGED.is_dir() else Path(__file__).resolve().parents[3] / "conf"
)  # the first in a wheel, the second in a checkout
GROUPS = ("data", "model", "method", "optim")
PLUMBING = (
    "root",
    "device",
    "threads",
    "workers",
    "wandb",
    "retry_failed",
    "fail_fast",
    "wait",
    "report",
    "trust",
    "seeds",
)
FOLDERS = {"data": "data", "model": "models", "method": "methods"}


@functools.cache
def known(group: str) -> list[str]:
    """Name what a group offers: every yaml that a module builds; modules without one hold what several share."""
    if group == "optim":
        return ["adam", "adamw", "sgd"]
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if module_of(group, path.stem))


def module_of(group: str, name: str) -> str | None:
    """Return the module that builds a name: its own, or that of its family, as `conv` for the depth in `conv4`."""
    folder = SOURCE / FOLDERS[group]
    return next((stem for stem in (name, name.rstrip("0123456789")) if (folder / f"{stem}.py").is_file()), None)


def offering(group: str, name: str, wanted: list[str]) -> str | None:
    """Return the yaml of ltx that has all the fields wanted, that of a class's own base first, or None."""
    bases = getattr(find(group, name), "__mro__", ())
    modules = [base.__module__.rpartition(".")[2] for base in bases if base.__module__.startswith("ltx.")]
    for stem in dict.fromkeys([*modules, *known(group)]):
        path = CONF / group / f"{stem}.yaml"
        if path.is_file() and set(wanted) <= set(yaml.safe_load(path.read_text())):
            return stem
    return None


def find(group: str, name: object) -> Callable[..., Any]:
    """Return the class behind a name: `imp` is ltx/methods/imp.py, `pkg.module:Class` the user's own."""
    if name in ("???", None):
        raise BadInput(f"{group}.name is missing: {', '.join(known(group))}, or your class as package.module:Class.")
    if isinstance(name, str) and ":" in name:
        return find_own(group, name)
    if name not in known(group):
        module, dot, last = str(name).rpartition(".")
        own = f"{module}:{last}" if dot and module else "package.module:Class"
        raise BadInput(f"{group}.name={name} is unknown{nearest(name, known(group))} Your own: {own}.")
    if group == "optim":
        from ltx.training.optim import OPTIMISERS

        return OPTIMISERS[str(name)]
    family = module_of(group, str(name))
    return getattr(importlib.import_module(f"ltx.{FOLDERS[group]}.{family}"), group.capitalize())


def find_own(group: str, name: str) -> Callable[..., Any]:
    """Import what `package.module:Class` names. Raises BadInput, before calling it, for what no such group can be."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise BadInput(f"{group}.name={name} should read package.module:Class.")
    dotted = module.removesuffix(".py").strip("./").replace("/", ".")
    if dotted != module:
        raise BadInput(f"{group}.name={name} should name a module, not a file: {dotted}:{attribute}.")
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise BadInput(f"{group}.name={name} is part of Python itself, and no {group} of yours.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a console script does not search the folder it is called in
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's module raises when it is imported
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module}.".startswith(f"{missing}."):
            # the module that was named is missing, and not one that it imports
            here = modules()
            hint = nearest(module, here)
            if missing == module.partition(".")[0] and not closest(module, here):
                hint = f", neither in this folder nor installed; a package is installed first: pip install {missing}."
            raise BadInput(f"{group}.name={name}: there is no module {missing}{hint}") from error
        raise BadInput(f"{group}.name={name} cannot be imported: {described(error)}.") from error
    defined = {word: value for word, value in vars(found).items() if getattr(value, "__module__", None) == module}
    offered = [word for word, value in defined.items() if callable(value) and not word.startswith("_")]
    if not hasattr(found, attribute):
        raise BadInput(f"{group}.name={name}: the module {module} has no {attribute}{nearest(attribute, offered)}")
    target = getattr(found, attribute)
    if not can_be(group, target):
        fit = [word for word in offered if can_be(group, defined[word])]
        raise BadInput(f"{group}.name={name} is no {group}: it should be {WHAT_IT_IS[group]}{nearest(attribute, fit)}")
    return target


def modules() -> list[str]:
    """Name the modules in the folder one stands in and those directly below it."""
    here = Path.cwd()
    paths = [path for pattern in ("[!._]*.py", "[!._]*/[!_]*.py") for path in here.glob(pattern)]
    return [".".join(path.relative_to(here).with_suffix("").parts) for path in paths]


WHAT_IT_IS = {
    "model": "an nn.Module, or a function that returns one",
    "data": "a class with a method load()",
    "method": "a frozen dataclass that answers what ltx.methods.Method asks",
    "optim": "one of ltx's own",
}


def can_be(group: str, target: Any) -> bool:
    """Tell whether what a config names is what its group wants, without calling it."""
    if group == "model":
        from torch import nn

        if inspect.isclass(target):
            return issubclass(target, nn.Module)
        return inspect.isfunction(target.func if isinstance(target, functools.partial) else target)
    if group == "data":
        return inspect.isclass(target) and callable(getattr(target, "load", None))
    return group == "method" and is_dataclass(target) and all(hasattr(target, q) for q in ("start", "effective"))


def shown(name: object) -> str:
    """Return a name as a person reads it: `imp` stays, `pkg.module:Class` of the user's own is `module.Class`."""
    module, colon, attribute = str(name).partition(":")
    return f"{module.rpartition('.')[2]}.{attribute}" if colon else module


def readable(config: typing.Mapping[str, Any]) -> str:
    """Return what a person reads in a run's key: method, model, data and width. Raises KeyError and the like."""
    names = [shown(config[group]["name"]) for group in ("method", "model", "data")]
    return re.sub(r"[^A-Za-z0-9_.-]", "_", f"{'-'.join(names)}-w{config['width']:g}")


def own_names(config: Any) -> set[str]:
    """Return the classes outside ltx that a config names, those of its trunks included."""
    if not isinstance(config, dict):
        return set()
    nodes = [config.get(group) for group in GROUPS]
    names = {str(node["name"]) for node in nodes if isinstance(node, dict) and ":" in str(node.get("name"))}
    return names | own_names(config.get("trunk"))


def check_trusted(config: Any, trust: bool, named: typing.Iterable[str], where: object, remedy: str) -> None:
    """Raise BadInput where a config from a file names code that nobody here asked for; it is not imported."""
    foreign = sorted(own_names(config) - set(named))
    if foreign and not trust:
        raise BadInput(
            f"{where} names code outside ltx, {', '.join(foreign)}, which would be executed; look at it first, then "
            f"say so: {remedy}."
        )
