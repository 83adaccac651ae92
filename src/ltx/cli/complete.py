"""Tab completion: what may follow on a line, from the yaml files alone; torch and Hydra stay unloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ltx.config.compose import CHOICES, CONF, choices
from ltx.config.names import GROUPS
from ltx.store.find import run_keys
from ltx.store.states import SORTS, STATES
from ltx.store.sweeps import is_key, sweeps
from ltx.store.tags import tags

# bash completes only what follows the last "=", so the text before it is cut off every candidate.
SCRIPT = """\
_ltx() {
    local IFS=$'\\n' line=${COMP_LINE:0:COMP_POINT}
    local word=${line##*[[:space:]]}
    local before=
    [[ $word == *=* && $COMP_WORDBREAKS == *=* ]] && before=${word%"${word##*=}"}
    COMPREPLY=($(ltx complete "$line" 2>/dev/null))
    COMPREPLY=("${COMPREPLY[@]#"$before"}")
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace
}
complete -o default -F _ltx ltx
"""
TAIL = ("--json", "root=", "quantile=")
STATUS = ("--json", "--watch", "--columns=", "root=")
FLAGS = ("-m", "--dry-run", "--full", "--cfg", "--resolve", "--config-dir", "--help")
WHERE = ("-m", "--config-dir", "--help")
SIMPLE = {
    "tag": ["--remove", "root="],
    "show": ["--time", "root=", "trust=true"],
    "diff": ["--json", "root="],
    "compare": ["--json", "root=", "trust=true"],
    "export": ["format=onnx", "overwrite=true", "root=", "scores=false", "trust=true"],
}
SWEEPS = {
    "work": ["device=", "retry_failed=true", "root=", "threads=", "trust=true", "wait=true", "workers="],
    "cancel": ["root="],
}
CLEAN = ("--failed", "--partial", "--yes", "root=")
REPORT = ("figure", "experiment=", "out=", "root=")
DOCTOR = ["--json", "root="]


def complete(line: str, commands: tuple[str, ...], groups: tuple[str, ...], root: Path) -> list[str]:
    """Return the words that may stand where the last word of `line`, perhaps empty, begins."""
    words = line.split()
    last = "" if not words or line[-1].isspace() else words.pop()
    if len(words) < 2:
        return matching(last, [*commands, "--help", "--version"])
    command = words[1]
    if command in SIMPLE:
        return matching(last, [*SIMPLE[command], *run_keys(root), *(sweep_names(root) if command == "show" else [])])
    if command == "status" and not ("." in last or "=" in last):
        return matching(
            last, [*STATUS, *STATES, *run_keys(root), *(f"{key}=" for key in (*GROUPS, "width", "sort", "tag"))]
        )
    if command == "status" and last.startswith("tag="):
        return matching(last, [f"tag={word}" for key in run_keys(root) for word in tags(root / "runs" / key)])
    if command == "status" and last.startswith("sort="):
        return matching(last, [f"sort={key}" for key in SORTS])
    if command == "tail" and not ("." in last or "=" in last):
        return matching(last, [*TAIL, *(f"{key}=" for key in (*GROUPS, "width"))])
    if command == "report":
        figure = words[2:3] == ["figure"]
        return matching(last, figure_names() if figure else [*REPORT, *sweep_names(root), *run_keys(root)])
    if command == "clean":
        return matching(last, [*CLEAN, *run_keys(root)])
    if command in SWEEPS:
        return matching(last, [*SWEEPS[command], *sweep_names(root)])
    if command == "doctor":
        return matching(last, DOCTOR)
    if command == "list":
        return matching(last, [*groups, "width=", "data="])
    figures = figure_names() if command == "figure" else []
    if last.startswith(("hydra/", "launcher.")):
        from hydra_plugins.ltx_plugins import LAUNCHERS, keys_of

        chosen = [word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")]
        named = [f"launcher.{key}=" for name in chosen if name in LAUNCHERS for key in keys_of(name)]
        return matching(last, [*(f"hydra/launcher={name}" for name in LAUNCHERS), *named])
    if "=" in last:
        key = last.partition("=")[0]
        values = choices(key, []) if key in CHOICES else run_keys(root) if key == "of" else []
        return matching(last, [f"{key}={value}" for value in values])
    if "." in last:
        return matching(last, fields(last.partition(".")[0], words))
    flags = {"run": FLAGS, "where": WHERE}.get(command, ()) if last.startswith("-") else ()
    plain = {key: value for key, value in settings().items() if key not in ("defaults", "hydra")}
    keys = [f"{key}=" for key in (*CHOICES, "zip", "plot", *plain)]
    dotted = [f"{key}." for key in (*GROUPS, *(key for key, value in plain.items() if isinstance(value, dict)))]
    return matching(last, [*figures, *flags, *keys, *(dotted if last else [])])


def matching(begin: str, words: list[str]) -> list[str]:
    """Return the words that begin so, each once."""
    return sorted({word for word in words if word.startswith(begin)})


def sweep_names(root: Path) -> list[str]:
    """Name the sweeps there are, by their folders and as those that have a name."""
    return [name for sweep in sweeps(root) for name in (sweep.path.name, sweep.name) if name and is_key(name)]


def figure_names() -> list[str]:
    """Name the figures there are."""
    return [name.replace("_", "-") for name in choices("figure", [])]


def settings() -> dict[str, Any]:
    """Return what run.yaml holds."""
    return yaml.safe_load((CONF / "run.yaml").read_text())


def fields(group: str, words: list[str]) -> list[str]:
    """Return `group.field=` for the fields of a group as the line chooses it, or as it is by default."""
    values = settings()
    chosen = {
        key: value for default in values["defaults"] if isinstance(default, dict) for key, value in default.items()
    }
    chosen |= {key: value.rpartition(",")[2] for key, _, value in (word.partition("=") for word in words)}
    path = CONF / group / f"{chosen.get(group)}.yaml"
    found = yaml.safe_load(path.read_text()) if path.is_file() else values.get(group)
    if not isinstance(found, dict):
        return []
    return [f"{group}.{name}=" for name in found if name not in ("name", "recipe", "defaults")]
