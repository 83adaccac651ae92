"""What a config may hold: the top level, and each group by its class. Refusals name the nearest value."""

from __future__ import annotations

import functools
import re
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from ltx.config.names import GROUPS, find, known, offering
from ltx.config.signatures import fields, further, is_plain, pretrained, takes_more
from ltx.config.words import text
from ltx.errors import BadInput, closest, nearest, of_the_users

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

PROJECT = r"^[^/\\#?%:]{1,128}$"  # the names that wandb takes

Seed = Annotated[int, Ge(0)]


class StreamsConfig(BaseModel):
    """Seeds pinned per stream; null: the run's seed."""

    model_config = STRICT
    init: Seed | None
    order: Seed | None
    augment: Seed | None
    mask: Seed | None
    noise: Seed | None


class WandbConfig(BaseModel):
    """Where the mirror goes and what it is called there; mode null: online with a key, offline without.

    A config that was written before there were name, notes, tags, job_type and artifacts has none of them.
    """

    model_config = STRICT
    mode: Literal["online", "offline", "disabled"] | None
    project: Annotated[str, Field(pattern=PROJECT)]
    entity: str | None
    group: str | None
    name: Annotated[str, Len(1, 128)] | None = None
    notes: str | None = None
    tags: list[Annotated[str, Len(1, 64)]] = []  # wandb takes no longer ones
    job_type: Annotated[str, Len(1, 64)] | None = None
    artifacts: bool = False


def no_float16(value: Any) -> Any:
    """Raise ValueError for the precisions of float16, with the reason."""
    if value in ("16-mixed", "16-true", 16, "16"):
        raise ValueError(
            "small gradients are zero in float16 unless the loss is scaled, which ltx does not do; bf16-mixed needs no "
            "scaling"
        )
    return value


Share = Annotated[float, Ge(0), Le(1)]


class TrainerConfig(BaseModel):
    """What reaches Lightning's Trainer, the steps fused into one training_step, seconds between checkpoints.

    precision: of training, and of everything that is measured of a level, so that its row is about what was trained.
        32-true: float32. bf16-mixed: matrix products and convolutions in bfloat16 (autocast); weights, scores,
        statistics and the optimiser's moments stay float32. bf16-true: all of these are bfloat16 too, in the level
        files as well; what changes a value by less than about 1/256 of it is lost then, so that no scores are searched.
    sparse_cpu, sparse_cuda: the density up to which a linear layer is computed from its kept weights alone on a device
        (see `training.rows`); 0: never. Measured beforehand (`make bench ARGS=B3`) and never timed while anything runs,
        so that a run does the same wherever it goes on.
    cuda_graphs: on a GPU the steps of a fixed mask on data in memory are launched many at once (see `training.graphs`).
    devices: CPU processes or GPUs that compute every batch together, a part each (see `training.ranks`); strategy: how,
        ddp where there are several.
    replicas: seeds of a run that one worker trains side by side where it can (see `training.replicas`), at most.

    A config that was written before there were the last six has none of them.
    """

    model_config = STRICT
    precision: Annotated[Literal["32-true", "bf16-mixed", "bf16-true"], BeforeValidator(no_float16)]
    deterministic: bool
    chunk: Annotated[int, Ge(1)]
    checkpoint_seconds: Annotated[float, Ge(0)]
    sparse_cpu: Share = 0.2
    sparse_cuda: Share = 0.0
    cuda_graphs: bool = True
    devices: Annotated[int, Ge(1), Le(1024)] = 1
    strategy: Literal["auto", "ddp"] = "auto"
    replicas: Annotated[int, Ge(1), Le(10_000)] = 1


class RunConfig(BaseModel):
    """The top level of a config; the groups' own fields are checked against their classes."""

    model_config = STRICT
    data: dict[str, Any]
    model: dict[str, Any]
    method: dict[str, Any]
    optim: dict[str, Any]
    width: Annotated[float, Gt(0)]
    seeds: Annotated[int, Ge(1), Le(10_000)] | Annotated[list[Seed], Len(1)]
    trunk: dict[str, Any] | None = None
    streams: StreamsConfig
    root: str
    device: str
    threads: Annotated[int, Ge(1), Le(1024)]
    workers: Annotated[int, Ge(0), Le(1024)] | None
    wandb: WandbConfig
    trainer: TrainerConfig
    retry_failed: bool
    fail_fast: bool = False
    wait: bool
    report: bool = True
    trust: bool = False


TYPE_WORDS = (
    "int",
    "float",
    "str",
    "bool",
    "constrained",
)  # pydantic puts these names of types into the path of an error; they are no keys


def known_to_pydantic(hint: Any) -> bool:
    """Tell whether values of a type can be checked; torch.Tensor is one of which pydantic knows nothing."""
    try:
        create_model("Field", __config__=STRICT, field=(hint, ...))
    except Exception:  # pydantic's own, and whatever a user's type raises when it is looked at
        return False
    return True


def refuse(error: ValidationError, prefix: str, whole: str, known_fields: typing.Iterable[str]) -> BadInput:
    """Turn pydantic's errors into one paragraph that names each value and the nearest valid one.

    Of a union's complaints one is enough: a range, a choice or an item of a list rather than the types it could have.
    """
    found = error.errors(include_url=False)
    lacking = [dotted(prefix, e["loc"]) for e in found if e["type"] == "missing"]
    unknown = [[str(part) for part in e["loc"]] for e in found if e["type"] == "extra_forbidden"]
    lines: dict[str, str] = {}
    types_of: dict[str, list[str]] = {}
    for e in found:
        name = dotted(prefix, e["loc"])
        if e["type"] in TYPES:
            types_of.setdefault(f"{name}={text(e['input'])}", []).append(TYPES[e["type"]])
        elif e["type"] not in ("missing", "extra_forbidden"):
            lines.setdefault(name, f"{name}={text(e['input'])}{wrong(e)}")
    for given, words in types_of.items():
        name = given.partition("=")[0]
        if not any(f"{other}.".startswith(f"{name}.") for other in lines):
            lines[name] = f"{given}: should be {' or '.join(dict.fromkeys(words))}."
    deepest = [line for name, line in lines.items() if not any(other.startswith(f"{name}.") for other in lines)]
    if lacking:
        deepest.insert(0, f"{', '.join(lacking)} {'are' if len(lacking) > 1 else 'is'} missing.")
    if len(unknown) > 1 and prefix:
        names, offered = ", ".join(".".join([prefix, *path]) for path in unknown), sorted(known_fields)
        meant = [word for path in unknown for word in closest(path[-1], offered)]
        hint = f"; did you mean {', '.join(dict.fromkeys(meant))}?" if meant else "."
        deepest.append(f"{names} are not fields of {whole}{hint} Known: {', '.join(offered)}.")
        return BadInput(" ".join(deepest))
    for path in unknown:
        inner = RunConfig.model_fields[path[0]].annotation if len(path) > 1 and not prefix else None
        offered = list(getattr(inner, "model_fields", known_fields))
        name = ".".join([prefix, *path] if prefix else path)  # here also a part that is no word belongs to the name
        deepest.append(f"{name} is not a field of {path[0] if inner else whole}{nearest(path[-1], offered)}")
    return BadInput(" ".join(deepest))


TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list, as [1,2]",
    "dict_type": "values by name, as {NAME:VALUE}",
    "model_type": "values by name, as {NAME:VALUE}",
}


def dotted(prefix: str, path: typing.Iterable[int | str]) -> str:
    """Return the key that one of pydantic's errors is about."""
    parts = [str(part) for part in path if re.fullmatch(r"\w+", str(part)) and part not in TYPE_WORDS]
    return ".".join([prefix, *parts] if prefix else parts)


def wrong(e: typing.Any) -> str:
    """Say what is wrong with a value of the right type."""
    if e["type"] == "literal_error":
        expected = e["ctx"]["expected"]
        options = re.findall(r"'([^']*)'", expected) or [expected.lower(), "null"]  # a flag is true or null
        return f" is unknown{nearest(e['input'], options)}"
    if e.get("ctx", {}).get("pattern") == PROJECT:
        return ": should be 1 to 128 characters without / \\ # ? % :."
    if e["type"] == "too_short":
        least = e["ctx"]["min_length"]
        return f": should have at least {least} value{'s' if least > 1 else ''}."
    return f": {e['msg'].removeprefix('Input ').removeprefix('Value error, ')}."


def checked(group: str, node: dict[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return a group's class and its validated arguments, or raise BadInput.

    A default that no config can hold (a tensor, a class) is not among them: it stands in the file of the user's class,
    whose digest is part of a run's key.
    """
    target = find(group, node.get("name"))
    with of_the_users(f"{group}.name={node['name']} does not say which arguments it takes"):
        schema, model = schema_of(group, target)
    arguments = {name: value for name, value in node.items() if name != "name"}
    try:
        valid = model(**arguments)
    except ValidationError as error:
        refused = refuse(error, group, f"{group}={node['name']}", ["name", *schema])
        lacking = [str(e["loc"][0]) for e in error.errors() if e["type"] == "missing"]
        unknown = [str(e["loc"][0]) for e in error.errors() if e["type"] == "extra_forbidden"]
        hint = remedy(group, str(node["name"]), lacking, unknown) or elsewhere(group, error)
        raise BadInput(f"{refused}{hint}") from error
    held = [name for name, (_, default) in schema.items() if name in arguments or is_plain(default)]
    return target, {name: getattr(valid, f"field_{name}") for name in held} | further(target, arguments, schema)


def remedy(group: str, name: str, lacking: list[str], unknown: list[str]) -> str:
    """Say how a group gets the fields that its class wants: they come with a yaml, of which another one can inherit."""
    if len(unknown) > 2 and ":" not in name:
        return f" {group}={name} chooses the class together with its fields."
    if len(unknown) > 2 and group in ("data", "model"):
        return f" {group}=own chooses a class of yours without them."
    if len(unknown) > 2:
        return f" Name the class in a yaml of yours instead: {group}/mine.yaml in a --config-dir, with `name: {name}`."
    if not lacking:
        return ""
    base = offering(group, name, lacking)
    if len(lacking) > 1 and base:
        return f" A yaml of yours takes over those of {group}={base} with a line `defaults: [{base}, _self_]`."
    return f" Set it: {group}.{lacking[0]}=VALUE."


def elsewhere(group: str, error: ValidationError) -> str:
    """Return which classes of the group have a field that was refused, and how to set it for those alone."""
    unknown = [e for e in error.errors(include_url=False) if e["type"] == "extra_forbidden" and len(e["loc"]) == 1]
    for e in unknown:
        field = str(e["loc"][0])
        owners = [name for name in known(group) if takes(group, name, field)]
        if owners:
            word = f"?{group}.{field}={text(e['input'])}"
            have = "have" if len(owners) > 1 else "has"
            named = " and ".join(owners if len(owners) < 4 else [", ".join(owners[:2]), f"{len(owners) - 2} others"])
            return f" {named} {have} it: write {word} to set it where it exists."
    return ""


def takes(group: str, name: str, field: str) -> bool:
    """Tell whether the class that a name means has a field."""
    return field == "name" or field in schema_of(group, find(group, name))[0]


def having(group: str, *names: str) -> list[str]:
    """Return the fields that some class of a group has, of those named or else of all of ltx's own."""
    classes = [find(group, name) for name in names or known(group)]
    return sorted({field for target in classes for field in ("name", *schema_of(group, target)[0])})


def check_value(key: str, value: Any) -> None:
    """Raise BadInput where the top level of a config, or one of its parts, cannot hold a value.

    `key` may be dotted. A group's own key names a choice, and its fields are for its class to check.
    """
    head, dot, rest = key.partition(".")
    schema = RunConfig.model_fields
    if head in GROUPS:
        if not dot and not isinstance(value, str):
            raise BadInput(f"{key}={text(value)} should be a name; its fields stand as {key}.FIELD, or below {key}.")
        return
    inner = getattr(schema[head].annotation, "model_fields", None)
    if inner and not dot:
        raise BadInput(f"{key}={text(value)} should be fields with their values: {', '.join(inner)}.")
    if dot:
        schema = inner or {}
        if rest not in schema:
            raise BadInput(f"{key} is not a field of {head}{nearest(rest, schema)}")
    name = rest or head
    try:
        validator({name: (schema[name].rebuild_annotation(), ...)})(**{name: value})
    except ValidationError as error:
        raise refuse(error, head if dot else "", "a run", schema) from error


@functools.cache
def schema_of(group: str, target: Callable[..., Any]) -> tuple[dict[str, tuple[Any, Any]], type[BaseModel]]:
    """Return what a config may set of a group's class, {name: (type, default)}, and what checks it."""
    schema = fields(target)
    if group == "data":
        schema.setdefault("split_seed", (Seed, ...))
        schema["random_labels"] = (Literal[True] | None, None)
    if group == "model":
        from ltx.models import Init

        schema["init"] = (Init | None, None)
        schema["channels_last"] = (Literal[True] | None, None)
        schema |= {name: (hint, None) for name, hint in pretrained(target).items()}
    return schema, validator(schema, more=group == "model" and takes_more(target))


def validator(schema: dict[str, tuple[Any, Any]], more: bool = False) -> type[BaseModel]:
    """Return a pydantic model of {name: (type, default)}; an argument of a type that pydantic does not know takes all.

    With `more` it accepts fields of other names too.
    Its own fields are called field_NAME: pydantic takes no name with a leading underscore, and has attributes itself.
    """

    def made(types_of: dict[str, Any]) -> type[BaseModel]:
        defaults = {name: d if d is ... or is_plain(d) else None for name, (_, d) in schema.items()}
        given = {f"field_{n}": (types_of[n], Field(default, alias=n)) for n, default in defaults.items()}
        config = STRICT | ConfigDict(extra="allow" if more else "forbid")
        return create_model("Fields", __config__=config, **given)  # type: ignore[call-overload, no-any-return]

    types_of = {name: hint for name, (hint, _) in schema.items()}
    try:
        return made(types_of)
    except Exception:  # pydantic's own, and whatever a user's type raises when it is looked at
        return made({name: hint if known_to_pydantic(hint) else Any for name, hint in types_of.items()})
