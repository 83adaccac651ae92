"""What a class or function says of itself: its fields with their types, what else it takes, and where it comes from."""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Len

from ltx.errors import BadInput, is_the_users

FROM_CONTEXT = (
    "self",
    "input_shape",
    "classes",
    "width",
)  # a model gets these arguments from the run, not from the config's model group


# What every model may be given beside its own fields, and what `--help` says of it.
PRETRAINED: dict[str, Any] = {
    "weights": Annotated[str, Len(1)] | None,
    "rename": Annotated[dict[str, str], Len(1)] | None,
    "weights_digest": Annotated[str, Len(64, 64)] | None,
}
ABOUT = {
    "weights": "FILE.safetensors to start from",
    "rename": "prefixes of names in that file and what they are in the network; names with none of them are left out",
    "weights_digest": "SHA-256 of that file, which ltx fills in",
}


def fields(target: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Return the {name: (type, default)} that a config may set: a class's signature is its schema."""
    call = target.__init__ if inspect.isclass(target) else target
    typed = hints(target if is_dataclass(target) else call)
    # What a model gets from the run, and not from its group of the config; ltx's own data sets have fields so called.
    given = ("self",) if getattr(target, "__module__", "").startswith("ltx.data.") else FROM_CONTEXT
    return {
        name: (Any if of_choices(typed.get(name)) else typed.get(name, Any), ... if p.default is p.empty else p.default)
        for name, p in inspect.signature(call).parameters.items()
        if name not in given and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }


def hints(target: Any) -> dict[str, Any]:
    """Return the type of every argument that names one, each read by itself.

    A name that cannot be looked up, as one that is imported only under TYPE_CHECKING, is Any.
    """
    function = inspect.unwrap(target.func if isinstance(target, functools.partial) else target)
    found: dict[str, Any] = {}
    for owner in reversed(function.__mro__) if inspect.isclass(function) else [function]:
        of_class = inspect.isclass(owner)
        names = vars(sys.modules[owner.__module__]) if of_class else getattr(owner, "__globals__", {})
        for name, said in inspect.get_annotations(owner).items():
            alone = types.SimpleNamespace(__annotations__={name: said})
            try:
                found |= typing.get_type_hints(alone, names, vars(owner) if of_class else None, include_extras=True)
            except Exception:  # evaluating what a user wrote can raise anything
                found[name] = Any
    return found


def is_plain(value: Any) -> bool:
    """Tell whether a config can hold a value: numbers, texts and null, and lists and dicts of them."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(inner) for key, inner in value.items())
    return value is None or type(value) in (bool, int, float, str)


def takes_more(target: Callable[..., Any]) -> bool:
    """Tell whether a model's constructor takes arguments that it does not name (**kwargs), and passes them on.

    nn.Module's own constructor, which a class without one inherits, has them in its signature and takes none.
    """
    from torch import nn

    if inspect.isclass(target) and target.__init__ is nn.Module.__init__:
        return False
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(target).parameters.values())


def takes(target: Callable[..., Any], name: str) -> bool:
    """Tell whether a constructor takes an argument, by its name or by its **kwargs."""
    return name in inspect.signature(target).parameters or takes_more(target)


def source_of(target: Any) -> str:
    """Return the SHA-256 of the file that holds a user's own class or function, and an installed package's version.

    What a package's factory builds can change with its version though the factory's own file does not. A package of
    ltx's user that is not installed, and ltx itself, have their files alone.
    """
    target = inspect.unwrap(target.func if isinstance(target, functools.partial) else target)
    path = inspect.getsourcefile(target)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""
    package = target.__module__.partition(".")[0]
    version = getattr(sys.modules.get(package), "__version__", None)
    installed = path is not None and not is_the_users(path) and package != "ltx"
    return f"{digest} {package} {version}" if installed and isinstance(version, str) else digest


def pretrained(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the fields by which a model starts from a file of weights (see `config.weights`), {name: type}.

    A constructor that names one of them keeps all of them: torchvision's have a `weights` of their own.
    """
    return {} if PRETRAINED.keys() & inspect.signature(target).parameters.keys() else dict(PRETRAINED)


def of_choices(hint: Any) -> bool:
    """Tell whether a type is an Enum or a union with one: no config can hold a value of it, so all are taken."""
    return (inspect.isclass(hint) and issubclass(hint, enum.Enum)) or any(map(of_choices, typing.get_args(hint)))


def further(target: Callable[..., Any], arguments: dict[str, Any], schema: Mapping[str, object]) -> dict[str, Any]:
    """Return the fields that a constructor does not name and takes by its **kwargs; null leaves it its own default.

    Raises BadInput for those that it has from the run, and for those of a start from a file where it keeps one of these
    names for itself.
    """
    found = {name: value for name, value in arguments.items() if name not in schema and value is not None}
    if not found:
        return found
    named = inspect.signature(target).parameters
    from_run = [name for name in found if name in FROM_CONTEXT and name in named]
    if from_run:
        raise BadInput(f"model.{from_run[0]} is no field: the model has its {from_run[0]} from the run.")
    kept = [name for name in PRETRAINED if name in named]
    if kept and PRETRAINED.keys() & found.keys():
        name = next(name for name in PRETRAINED if name in found)
        raise BadInput(
            f"model.{name} belongs to a start from a file, but model.{kept[0]} is an argument of the model's."
        )
    return found
