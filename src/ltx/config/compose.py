"""Compose a config from conf/ and the command line. With src/hydra_plugins the only importer of Hydra."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import json
import os
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ltx.config import trunk
from ltx.config.defaults import NONE, Defaults, fitting
from ltx.config.names import CONF, GROUPS, check_trusted
from ltx.config.schema import RunConfig
from ltx.config.spec import Spec
from ltx.config.words import key_of, unreadable
from ltx.config.yamls import check_own_yaml, check_shadowed, choices, where_own
from ltx.errors import BadInput, nearest
from ltx.store.files import Damaged, read_yaml, yaml_problem
from ltx.store.find import find_run

CHOICES = (*GROUPS, "experiment")
SWEEPS = ("choice", "range")


@cache
def parser() -> Any:
    """Return Hydra's override parser; making one takes milliseconds."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create()


@cache
def parse(text: str) -> Any:
    """Return Hydra's reading of `key=value`. Raises BadInput."""
    from hydra.errors import HydraException

    try:
        return parser().parse_override(text)
    except HydraException as error:
        function = re.fullmatch(r"[^=]*=(\w+)\(.*\)", text)
        if function and function[1] not in SWEEPS:
            raise BadInput(f"{text}: {function[1]} is no kind of sweep{nearest(function[1], SWEEPS)}") from error
        raise BadInput(f"{text!r} is not key=value: {unreadable(text)}.") from error


KEYS = (*RunConfig.model_fields, "of", "experiment", "zip")


def checked_override(text: str, extra: list[str]) -> str:
    """Check a group's choice and a top-level name, and let the groups' schemas check the rest.

    Hydra knows no nearest name and accepts `+foo=1` silently, so an unknown choice or key is refused here, and every
    `group.key=value` becomes `++group.key=value`: the group's own class then names what it does not have.
    """
    override = parse(text)
    key = override.key_or_group
    head, dot, _ = key.partition(".")
    if override.is_sweep_override():
        check_sweep(override)
    if head == "hydra" or key.startswith("hydra/"):
        return text
    if head == "zip":
        raise BadInput(f"{text} needs a sweep, as in -m width=1,2 optim.lr=.1,.2 zip=width,optim.lr.")
    if head not in KEYS:
        raise BadInput(f"'{head}' is not a key of a run{nearest_key(head)}")
    if override.is_delete():
        if key in CHOICES:
            raise BadInput(f"{text}: a run cannot do without; choose another one, {key}=NAME.")
        return text
    if dot:
        return "++" + text.lstrip("+")
    if head in CHOICES:
        offered = choices(head, extra)
        values = list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
        for value in values:
            if isinstance(value, dict):
                raise BadInput(f"{text}: set fields one by one, {head}.FIELD=value.")
            if value not in offered:
                hint = nearest(value or "", offered) + where_own(head, str(value), extra)
                raise BadInput(f"{head}={'' if value is None else value} is unknown{hint}")
            check_own_yaml(head, value, extra)
    return text.lstrip("+")


def primary(values: Mapping[str, Any]) -> str:
    """Return the name under which Hydra finds run.yaml with a person's defaults in the place of its values."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    if not values:
        return "run"
    node = OmegaConf.load(CONF / "run.yaml")
    for key in set(values) - set(GROUPS):
        OmegaConf.update(node, key, values[key], force_add=True)
    for default in node.defaults:
        for group in {*GROUPS} & {*default} & {*values}:
            default[group] = values[group]
    ConfigStore.instance().store("run_with_defaults", node)
    return "run_with_defaults"


def base(choices_made: tuple[str, ...], search: tuple[str, ...], own: Defaults) -> Any:
    """Compose the groups, with a person's defaults in the place of run.yaml's values. Raises BadInput."""
    return composed(choices_made, search, json.dumps(dict(own.values)))


def check_sweep(override: Any) -> None:
    """Raise BadInput where a sweep cannot be counted through or has no value."""
    from hydra.errors import HydraException

    try:
        values = [*itertools.islice(override.sweep_iterator(), 1)]  # a first value may be null
    except HydraException as error:
        raise BadInput(f"{override.input_line}: a sweep is 1,2,4 or range(1,5).") from error
    if not values:
        raise BadInput(f"{override.input_line} has no values; range(1,5) is 1,2,3,4.")


def nearest_key(head: str) -> str:
    """Return the hint for an unknown top-level key: the field of a group that has this name, or the nearest key."""
    groups = {group for group in GROUPS for path in (CONF / group).glob("*.yaml") if head in read_yaml(path)}
    return f"; did you mean '{min(groups)}.{head}'?" if groups else nearest(head, KEYS)


@cache
def composed(choices_made: tuple[str, ...], search: tuple[str, ...], values: str) -> Any:
    """Compose the groups, once a combination: Hydra takes a twentieth of a second for what a sweep repeats."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    paths = ",".join(f"file://{Path(folder).resolve()}" for folder in search)
    extra = [f"hydra.searchpath=[{paths}]"] if paths else []
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra_compose(primary(json.loads(values)), [*choices_made, *extra])
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise BadInput(told(error)) from error
    OmegaConf.set_struct(config, False)
    return config


def told(error: Exception) -> str:
    """Return what Hydra, OmegaConf or yaml say as one sentence, with the file and line or the key it is about."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}{yaml_problem(error)}."
    several = re.match(r"Ambiguous value for argument '([^']*)'", str(error))
    if several:
        return f"{several[1]} is several values: -m runs a point for each, [1,2] is a list."
    key, said = getattr(error, "full_key", None), str(getattr(error, "msg", None) or error)
    said = " ".join(said.partition("Config search path")[0].partition("full_key:")[0].split()).rstrip(".")
    return f"{key}: {said}." if key else f"{said}."


def compose(overrides: list[str], config_dirs: list[str], own: Defaults = NONE) -> dict[str, Any]:
    """Return the resolved plain config of one run, that of its trunk inside. Raises BadInput; writes nothing.

    `own` are a person's defaults: what run.yaml says they say instead, and everything else wins over them.
    """
    for folder in config_dirs:
        if not Path(folder).is_dir():
            raise BadInput(f"--config-dir {folder} is not a folder.")
    overrides = tables(overrides)
    plain = resolved(overrides, config_dirs, own)
    of = plain.pop("of")
    if of is not None:
        return standing_on(str(of), overrides, config_dirs, own)
    if plain["trunk"] is None:
        return plain
    words = trunk.words(plain, overrides)
    try:
        below = compose(words, config_dirs, own)
    except BadInput as error:
        raise BadInput(f"in the trunk: {error}") from error
    if trunk.is_control(plain) and trunk.searches(below):
        below = compose(trunk.without_optimiser(words), config_dirs, own)
    plain = resolved(overrides, config_dirs, own, trunk.taken_over(plain, below, overrides))
    del plain["of"]
    return {**plain, "trunk": below}


def tables(overrides: list[str]) -> list[str]:
    """Return the words with data=table in the place of a data=own that names a file and no class."""
    said = {key_of(word): word for word in overrides}
    is_file = said.get("data") == "data=own" and "data.path" in said and "data.name" not in said
    return ["data=table" if is_file and word == "data=own" else word for word in overrides]


def resolved(
    overrides: list[str], config_dirs: list[str], own: Defaults, inherited: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Compose the groups, set the method's recipe, then `inherited` groups, then the overrides' values."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    checked = [checked_override(word, config_dirs) for word in overrides]
    parsed = [parse(word) for word in checked]
    for override in parsed:
        if override.is_sweep_override():
            raise BadInput(f"{override.input_line} is several values: -m runs a point for each, [1,2] is a list.")
    grouped = [o.is_delete() or o.key_or_group in CHOICES or o.key_or_group.startswith("hydra") for o in parsed]
    made = tuple(word for word, is_choice in zip(checked, grouped, strict=True) if is_choice)
    try:
        own = meant(own, made, overrides, config_dirs)
        config = copy.deepcopy(base(made, tuple(config_dirs), own))
        recipe = config.method.pop("recipe", None) or {}  # what the method's yaml wants of model and optimiser
        if not isinstance(recipe, Mapping) or not {str(key).partition(".")[0] for key in recipe} <= {*GROUPS}:
            raise BadInput(f"recipe={recipe} of the method's yaml should be values by key, as {{optim.lr: 0.1}}.")
        usual = base(tuple(word for word in made if key_of(word) != "optim"), tuple(config_dirs), own).optim.name
        for key, value in recipe.items():
            group, _, name = key.partition(".")
            if name in config[group] and not (group == "optim" and config.optim.name != usual):
                config[group][name] = value
        for name, value in (inherited or {}).items():
            config[name] = value
        for override, is_choice in zip(parsed, grouped, strict=True):
            if not is_choice:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True, force_add=True)
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise BadInput(told(error)) from error
    assert isinstance(plain, dict)
    for name in ("run", *(f"{group}/{plain[group].get('name')}" for group in GROUPS)):
        check_shadowed(f"{name}.yaml", config_dirs)
    if plain.get("experiment"):
        raise BadInput(
            "this experiment sets nothing: the first line of its yaml should be `# @package _global_`, so that its "
            "values are those of the run."
        )
    return {str(name): value for name, value in plain.items() if name != "experiment"}


def meant(own: Defaults, made: tuple[str, ...], overrides: list[str], config_dirs: list[str]) -> Defaults:
    """Return those of a person's defaults that are meant for the classes which a run chooses. Raises BadInput."""
    for group in GROUPS:
        offered, choice = choices(group, config_dirs), own.values.get(group)
        if choice is not None and choice not in offered:
            raise BadInput(f"{own.file}: {group}={choice} is unknown{nearest(choice, offered)}")
    if not own.values:
        return own
    chosen = base(made, tuple(config_dirs), own.only({*GROUPS}))
    typed = {key_of(word): word.partition("=")[2] for word in overrides}
    names = {g: str(typed.get(f"{g}.name", own.values.get(f"{g}.name", chosen[g].name))) for g in GROUPS}
    return fitting(own, names)


def standing_on(of: str, overrides: list[str], config_dirs: list[str], own: Defaults) -> dict[str, Any]:
    """Inline a finished run as the trunk: RUN[:seed[:level]], a key or a directory; its values are this run's too."""
    name, pinned = trunk.reference(of)
    plain = resolved(overrides, config_dirs, own)
    try:
        place = find_run(name, Path(str(plain["root"])))
        below = read_yaml(place / "config.yaml")
        typed = [word.partition("=")[2] for word in overrides if key_of(word).endswith("name")]
        check_trusted(below, plain["trust"] is True, typed, place / "config.yaml", "trust=true")
        path = plain["data"].get("path")
        if path is not None and "data" not in map(key_of, overrides) and below["data"].get("path") is not None:
            below["data"]["path"] = path  # its images lie elsewhere by now
        if Spec.of({**below, "seeds": 1}).key != place.name and place.parent.name == "runs":
            raise Damaged(f"{place / 'config.yaml'} is another run's")
    except Damaged as error:
        raise BadInput(f"of={name}: {error}; running its own command again writes it anew.") from error
    except BadInput as error:
        raise BadInput(f"of={name}: {error}") from error
    plain = resolved([*overrides, *pinned], config_dirs, own, trunk.taken_over_of(below, overrides))
    del plain["of"]
    return {**plain, "trunk": {**below, "root": plain["root"]}}


def hydra_main(
    flags: list[str], words: list[str], config_dirs: list[str], own: Defaults = NONE
) -> tuple[list[list[str]], dict[str, Any]]:
    """Let Hydra itself read its flags (-m, --cfg, --info ...) and named sweeps.

    Returns the overrides of every point to run, none where a flag asked for something else, and what the launcher was
    told, nothing where the points run here. They run when Hydra is out of the way. A `?` word reaches Hydra as a plain
    one and its key as one of the sweeper's `optional`; the points have it with its mark. Raises BadInput for what Hydra
    refuses.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    checked = [checked_override(word.removeprefix("?"), config_dirs) for word in words]
    last = {key_of(word): word for word in words}
    optional = [key for key, word in last.items() if word.startswith("?")]
    points: list[list[str]] = []
    request: dict[str, Any] = {}

    def point(_: Any) -> None:
        task = HydraConfig.get().overrides.task
        points.append([f"?{word.lstrip('+')}" if key_of(word) in optional else word for word in task])

    def sweep(all_points: list[list[str]], asked: dict[str, Any]) -> None:
        points.extend(all_points)
        request.update(OmegaConf.to_container(OmegaConf.create(asked)))  # type: ignore[arg-type]  # of texts as keys

    point.sweep = sweep  # type: ignore[attr-defined]  # the launcher of ltx calls this attribute
    search = ",".join(f"file://{Path(folder).resolve()}" for folder in config_dirs)
    extra = [f"hydra.searchpath=[{search}]"] if search else []
    extra += [f"hydra.sweeper.optional=[{','.join(optional)}]"] if optional else []
    if not {"-m", "--multirun"} & {*flags}:
        made = tuple(word for word in checked if key_of(word) in CHOICES)
        own = meant(own, made, checked, config_dirs)
    said = io.StringIO()
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints its errors, in several paragraphs, and exits
    sys.argv = ["ltx", *flags, *checked, *extra]
    try:
        with contextlib.redirect_stderr(said):
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=primary(own.values))(point)()
    except SystemExit as error:
        if not error.code:
            return [], {}
        raise BadInput(f"{said.getvalue().strip().splitlines()[-1]}.") from error
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise BadInput(told(error)) from error  # a ValueError is of flags that contradict each other
    finally:
        sys.argv = before
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
    return points, request
