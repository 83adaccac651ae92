"""Data sets by the JSON of their config node: what they say of themselves, and the examples."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from ltx.config.schema import checked
from ltx.errors import BadInput, nearest, of_the_users

if TYPE_CHECKING:
    from ltx.data import Dataset, Facts


def made(config: str) -> tuple[Any, dict[str, Any]]:
    """Return a data set's object, not loaded, and what the config says beside its own fields. Raises BadInput."""
    node = json.loads(config)
    target, arguments = checked("data", node)
    rest = {"split_seed": arguments["split_seed"], "random_labels": arguments.pop("random_labels")}
    if "split_seed" not in inspect.signature(target).parameters:
        del arguments["split_seed"]
    with of_the_users(f"data.name={node['name']} cannot be loaded"):
        return target(**arguments), {"name": node["name"], **rest}


@contextlib.contextmanager
def called(name: str) -> Iterator[None]:
    """Put the name of one of ltx's own data sets in front of what is wrong with it."""
    try:
        yield
    except BadInput as error:
        raise (BadInput(f"data.name={name}: {error}") if ":" not in name else error) from error


@cache
def facts(config: str) -> Facts:
    """Return what a data set says of itself, from the JSON of its config node; it is loaded where it says nothing."""
    from ltx.data import Facts

    data, node = made(config)
    if not hasattr(data, "facts"):
        return load(config).facts
    with of_the_users(f"data.name={node['name']} cannot say what it is"), called(str(node["name"])):
        said = data.facts()
    if not isinstance(said, Facts):
        raise BadInput(f"data.name={node['name']}: facts() returned a {type(said).__name__}, not ltx.data.Facts.")
    counts = [*said.input_shape, said.classes, said.train, said.val, said.test]
    if not all(isinstance(count, int) and count > 0 for count in counts):
        raise BadInput(f"data.name={node['name']}: facts() returned {said}; shape and sizes should be counts from 1.")
    return said


@cache
def content(config: str) -> str:
    """Return the digest of what a data set with a path has there, from the JSON of its config node."""
    data, node = made(config)
    with called(str(node["name"])):
        return str(data.content)


@cache
def load(config: str) -> Dataset:
    """Load a data set from the JSON of its config node, once a process. Raises BadInput for what is no data set."""
    from ltx.data import Dataset
    from ltx.data.arrays import TARGETS, assemble
    from ltx.data.splits import with_random_labels

    data, node = made(config)
    task: Any = getattr(data, "task", "classification")
    if task not in [*TARGETS]:
        raise BadInput(f"data.name={node['name']}: task={task} is unknown{nearest(task, TARGETS)}")
    try:
        with of_the_users("it cannot be loaded"):
            found = data.load()
            if not isinstance(found, Dataset):
                found = assemble(found, node["split_seed"], task=task)
            shown = found.facts
    except BadInput as error:
        raise BadInput(f"data.name={node['name']}: {error}") from error
    if hasattr(data, "facts") and facts(config) != shown:
        raise BadInput(f"data.name={node['name']} says that it is {facts(config)}, but what it loads is {shown}.")
    return with_random_labels(found, node["split_seed"]) if node["random_labels"] else found
