"""What `ltx list` prints: every name as a command wants it, with the comment at the head of its yaml."""

from __future__ import annotations

import functools
import json
import re
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltx.config.compose import choices
from ltx.config.names import CONF, known, shown
from ltx.errors import BadInput
from ltx.store.files import Damaged, read_yaml, text

if TYPE_CHECKING:
    from ltx.config.spec import Spec

LISTED = {
    "methods": ("method", "method=NAME"),
    "models": ("model", "model=NAME"),
    "data": ("data", "data=NAME"),
    "optim": ("optim", "optim=NAME"),
    "experiments": ("experiment", "experiment=NAME"),
    "figures": ("figure", "ltx figure NAME"),
}  # what is listed, by its word: the folder of its yamls, and how a command names one
WITHOUT_SIZES = ("images", "table")  # data sets that are what a path of the user's holds
MANY = 12  # layers whose units are not listed one by one


def listing(word: str, sizes: dict[str, str] | None, folders: Sequence[str], examples: bool = False) -> list[str]:
    """Return the lines of one kind of names, models with their layer sizes where `sizes` names a width and data.

    With `examples` data sets come with their sizes. Both take a second, for torch is imported. `folders` are those of
    --config-dir. Lines fit the terminal.
    """
    group, command = LISTED[word]
    width = shutil.get_terminal_size().columns
    entries = {
        name: about(find_yaml(group, name, folders)) for name in sorted(choices(group, [*folders]), key=by_depth)
    }
    lines = [f"{word} ({command}):"]
    column = 2 + max([len(name) for name in entries], default=0) + 2
    for name, (said, content) in entries.items():
        called = name.replace("_", "-") if group == "figure" else name
        target = str(content.get("name", ""))
        if target == "???":  # the class is for the command to name
            called += f" {group}.name=package.module:Class"
        elif ":" in target:
            said = f"{said} ({shown(target)})".strip()
        lines += beside(f"  {called}", said, column, width)
        if group == "model" and sizes is not None and "defaults" not in content and target in known("model"):
            lines += beside("", sizes_of({"init": None} | content, **sizes), column, width)
        if group == "data" and examples and "defaults" not in content and target in known("data"):
            lines += beside("", found, column, width) if (found := examples_of(content)) else []
    return lines


def by_depth(name: str) -> list[str]:
    """Return what sorts resnet20 before resnet110."""
    return [part.zfill(6) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def beside(name: str, said: str, column: int, width: int) -> list[str]:
    """Return a name with its text from `column` on, the text wrapped; below the name where that is too long."""
    wrapped = textwrap.wrap(said, max(20, width - column)) or [""]
    pad = " " * column
    if len(name) + 2 > column:
        return [name, *(pad + line for line in wrapped if line)]
    return [f"{name:{column}}{wrapped[0]}".rstrip(), *(pad + line for line in wrapped[1:])]


def find_yaml(group: str, name: str, folders: Sequence[str]) -> Path:
    """Return the file of a name: ltx's own, or that of a folder of the user's."""
    paths = [Path(folder) / group / f"{name}.yaml" for folder in (str(CONF), *folders)]
    return next(path for path in paths if path.is_file())


def about(path: Path) -> tuple[str, dict[str, Any]]:
    """Return what a yaml says of itself, its title or the comment at its head, and what it holds."""
    try:
        content = read_yaml(path)
    except Damaged as error:
        raise BadInput(f"{error}.") from error
    if "title" in content:
        return f"{content['title']} ({content.get('source', 'no source')})", content
    head = []
    for line in (text(path) or "").splitlines():
        if not line.startswith("#"):
            break
        head += [line.lstrip("# ")] if "@package" not in line else []
    return " ".join(head), content


def sizes_of(model: dict[str, Any], width: str, data: str) -> str:
    """Return the layers, parameters and prunable weights of a model, a yaml's content, at a width on a data set."""
    from ltx.tensors import matrices

    spec = replace(lenet(width, data), config={**lenet(width, data).config, "model": model})
    network = spec.network(device="meta")
    names = matrices(network)
    units = [network.get_parameter(name).shape[0] for name in names]
    layers = "-".join(map(str, units))
    if len(units) > MANY:
        layers = f"{len(units)} layers of {min(units[:-1])} to {max(units[:-1])} units"
    parameters = sum(p.numel() for p in network.parameters())
    prunable = sum(network.get_parameter(name).numel() for name in names)
    shape = "x".join(map(str, spec.facts.input_shape))
    place = f"at width {spec.config['width']:g} on {data} {shape}"
    return f"{place}: {layers}, {parameters:,} parameters, {prunable:,} prunable"


def examples_of(data: dict[str, Any]) -> str:
    """Return the shape, classes and sizes of a data set, a yaml's content, and whether its images are here.

    Of one that only its file can tell it says nothing.
    """
    from ltx.config.loading import made
    from ltx.data import cache

    if data["name"] in WITHOUT_SIZES:
        return ""
    found, _ = made(json.dumps(data))
    facts = found.facts()
    shape = "x".join(map(str, facts.input_shape))
    sizes = f"{facts.train:,} to train, {facts.val:,} to validate, {facts.test:,} to test"
    where = ""
    if hasattr(type(found), "prepared"):  # which decodes where it is asked for
        where = "; on this machine" if cache.is_prepared(found.source) else "; fetched when it is first used"
    return f"{shape}, {facts.classes} classes; {sizes}{where}"


@functools.cache
def lenet(width: str, data: str) -> Spec:
    """Return a checked run at a width on a data set, in which other models can take LeNet's place."""
    from ltx.config.compose import compose
    from ltx.config.spec import Spec

    return Spec.of(compose([f"width={width}", f"data={data}", "method=dense"], []))
