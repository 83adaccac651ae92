"""Compose a config from conf/ and the command line. With src/hydra_plugins the only importer of Hydra."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ltx.errors import BadInput, nearest
from ltx.experiment import GROUPS, RunConfig

PACKAGED = Path(__file__).parent / "conf"
CONF = PACKAGED if PACKAGED.is_dir() else Path(__file__).resolve().parents[2] / "conf"  # wheel, else checkout


def choices(group: str, extra: list[str]) -> list[str]:
    """Name the yaml files of a group, the user's own folders included."""
    folders = [CONF, *map(Path, extra)]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def checked_overrides(overrides: list[str], extra: list[str]) -> list[str]:
    """Check groups and top-level names, and let the groups' schemas check the rest.

    Hydra knows no nearest name and accepts `+foo=1` silently, so an unknown choice or key is refused here, and every
    `group.key=value` becomes `++group.key=value`: the group's own class then names what it does not have.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    known = [*RunConfig.model_fields]
    result = []
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except OverrideParseException as error:
            raise BadInput(f"'{text}' is not key=value: {str(error).splitlines()[0]}.") from error
        key = override.key_or_group
        head, dot, _ = key.partition(".")
        if head == "hydra" or key.startswith("hydra/"):
            result.append(text)
            continue
        if head not in known:
            raise BadInput(f"'{head}' is not a key of a run{nearest(head, known)}")
        if head in GROUPS and not dot:
            values = override.value() if not override.is_sweep_override() else None
            offered = choices(head, extra)
            if isinstance(values, dict):
                raise BadInput(f"{text}: set fields one by one, {head}.FIELD=value.")
            if values is not None and values not in offered:
                raise BadInput(f"{head}={values} is unknown{nearest(values, offered)}")
            if values is None and not override.is_sweep_override():
                raise BadInput(f"{head}= needs a name{nearest('', offered)}")
            result.append(text)
        elif dot and not override.is_delete():
            result.append("++" + text.lstrip("+"))
        else:
            result.append(text.lstrip("+") if not override.is_delete() else text)
    return result


def compose(overrides: list[str], config_dirs: list[str]) -> dict[str, Any]:
    """Return the resolved plain config of one run. Raises BadInput in one paragraph; writes nothing."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for folder in config_dirs:
        if not Path(folder).is_dir():
            raise BadInput(f"--config-dir {folder} is not a folder.")
    overrides = checked_overrides(overrides, config_dirs)
    search = ",".join(f"file://{Path(folder).resolve()}" for folder in config_dirs)
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra_compose("run", [*overrides, *([f"hydra.searchpath=[{search}]"] if search else [])])
        plain = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise BadInput(" ".join(str(error).split())) from error
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


def hydra_main(words: list[str], config_dirs: list[str], task: Callable[[Callable[[], dict[str, Any]]], int]) -> int:
    """Let Hydra itself handle its flags (-m, --cfg, --info ...); `task` runs one composed point.

    The worst exit code of the points is returned: Hydra's own is 1 for everything.
    """
    import hydra
    from omegaconf import DictConfig, OmegaConf

    assignments = [word for word in words if "=" in word and not word.startswith("-")]
    checked = dict(zip(assignments, checked_overrides(assignments, config_dirs), strict=True))
    codes: list[int] = []

    def point(config: DictConfig) -> None:
        resolved = OmegaConf.to_container(config, resolve=True)
        assert isinstance(resolved, dict)
        codes.append(task(lambda: {str(k): v for k, v in resolved.items()}))

    search = ",".join(f"file://{Path(folder).resolve()}" for folder in config_dirs)
    extra = [f"hydra.searchpath=[{search}]"] if search else []
    before = sys.argv
    sys.argv = ["ltx", *(checked.get(word, word) for word in words), *extra]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="run")(point)()
    except SystemExit as error:
        codes.append(2 if error.code else 0)
    finally:
        sys.argv = before
    return max(codes, default=0)


def listing(group: str, width: str, data: str) -> str:
    """Return the names of a group with their first comment, models with layer sizes at a width."""
    lines = []
    for name in choices(group, []):
        text = (CONF / group / f"{name}.yaml").read_text()
        comment = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
        lines.append(f"  {name:12} {comment or '-'}")
        if group == "model" and name != "own":
            lines.append(f"  {'':12} {sizes(name, width, data)}")
    return "\n".join(lines)


def sizes(model: str, width: str, data: str) -> str:
    """Return a model's hidden channels, parameters and prunable weights at a width on a data set."""
    from ltx.experiment import Experiment
    from ltx.tensors import matrices

    experiment = Experiment.of(compose([f"model={model}", f"width={width}", f"data={data}", "method=dense"], []))
    network = experiment.network(device="meta")
    names = matrices(network)
    units = "-".join(str(network.get_parameter(name).shape[0]) for name in names)
    parameters = sum(p.numel() for p in network.parameters())
    prunable = sum(network.get_parameter(name).numel() for name in names)
    shape = "x".join(map(str, experiment.data.input_shape))
    return f"at width {experiment.config['width']:g} on {data} {shape}: {units}, {parameters:,} parameters, {prunable:,} prunable"
