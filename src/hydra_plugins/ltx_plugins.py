"""ltx as Hydra's sweeper and launchers: expand a multirun's overrides and hand all points to ltx at once.

Hydra's own sweeper composes every point twice and writes into the working folder; its own launchers neither resume
nor share workers between points. What happens to the points is in ltx.sweep. (No postponed annotations here: with
them a dataclass in this namespace breaks every Hydra application of the environment.)
"""

import difflib
import itertools
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, List, Optional, Sequence  # noqa: UP035

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import ConfigCompositionException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper


@dataclass
class SweeperConfig:
    """What the sweeper is told.

    params: sweeps of a named experiment; a key that begins with `?` is set where it exists.
    zip: keys whose values go in step instead of as a product.
    optional: keys of the command line that are set where they exist.
    """

    _target_: str = "hydra_plugins.ltx_plugins.LtxSweeper"
    params: Optional[Dict[str, str]] = field(default_factory=dict)  # noqa: UP006, UP045
    zip: List[str] = field(default_factory=list)  # noqa: UP006
    optional: List[str] = field(default_factory=list)  # noqa: UP006


@dataclass
class LauncherConfig:
    """Run the points on this machine's cores."""

    _target_: str = "hydra_plugins.ltx_plugins.LtxLauncher"


@dataclass
class ElsewhereConfig:
    """What all launchers elsewhere are told, as launcher.KEY=VALUE.

    workers: how many there are at most. per_task: the seeds that each trains at a time.
    restarts: how often a worker is begun again at most, after it was killed or its time was over.
    wait: stay and show how far they are, instead of returning at once.
    shared: whether they all see the root though it is on a disk of this machine, as where others mount it.
    """

    _target_: str = "hydra_plugins.ltx_plugins.LtxLauncher"
    workers: int = 8
    per_task: int = 1
    restarts: int = 100
    wait: bool = False
    shared: bool = False


@dataclass
class SlurmConfig(ElsewhereConfig):
    """Run the points in one array of Slurm.

    partition, account, qos, constraint: as sbatch takes them; null: the cluster's default.
    minutes: of a worker, which ends in order `before_end` seconds before and is requeued while work is left.
    gpus, cpus, memory: of a worker; null: as many cores as threads, and the cluster's default of memory, in GB.
    setup: lines of shell before a worker starts, as [module load cuda]. options: others of sbatch, {nodelist: n1}.
    """

    kind: str = "slurm"
    partition: Optional[str] = None  # noqa: UP045
    account: Optional[str] = None  # noqa: UP045
    qos: Optional[str] = None  # noqa: UP045
    constraint: Optional[str] = None  # noqa: UP045
    minutes: int = 60
    before_end: int = 60
    gpus: int = 0
    cpus: Optional[int] = None  # noqa: UP045
    memory: Optional[float] = None  # noqa: UP045
    setup: List[str] = field(default_factory=list)  # noqa: UP006
    options: Dict[str, str] = field(default_factory=dict)  # noqa: UP006


@dataclass
class RayConfig(ElsewhereConfig):
    """Run the points on a Ray cluster.

    address: of the cluster, null: the one that this machine belongs to, or else a local one of this machine, which
    ends with the command. gpus, cpus, memory: what Ray sets aside for a worker, in GB; cpus null: as many as threads.
    """

    kind: str = "ray"
    address: Optional[str] = None  # noqa: UP045
    gpus: float = 0.0
    cpus: Optional[float] = None  # noqa: UP045
    memory: Optional[float] = None  # noqa: UP045


class LtxSweeper(Sweeper):
    """Expand sweeps to points: a product of all keys, those in `zip` in step."""

    def __init__(self, params: Optional[Dict[str, str]], zip: List[str], optional: List[str]):  # noqa: UP006, UP045
        self.params, self.zip, self.optional = dict(params or {}), list(zip), set(optional)

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.config, self.context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: List[str]) -> Any:  # noqa: UP006
        params = {key.lstrip("?"): value for key, value in self.params.items()}
        texts = [*(f"{key}={value}" for key, value in params.items()), *arguments]
        typed = {text.partition("=")[0].lstrip("+") for text in arguments}
        optional = self.optional | {key[1:] for key in self.params if key[0] == "?" and key[1:] not in typed}
        columns: Dict[str, List[str]] = {}  # noqa: UP006
        for override in OverridesParser.create().parse_overrides(texts):
            name = override.get_key_element().lstrip("+")
            key = f"?{name}" if name in optional else override.get_key_element()
            values = (
                [f"{key}={value}" for value in override.sweep_string_iterator()]
                if override.is_sweep_override()
                else [f"{key}={override.get_value_element_as_str()}"]
            )
            columns[name] = values  # the command line comes last and wins over params
        self.check_zip({key: len(values) for key, values in columns.items()})
        in_step = [list(row) for row in zip(*(columns.pop(key) for key in self.zip), strict=True)] or [[]]
        rest = itertools.product(*columns.values())
        assert self.launcher is not None  # since `setup`
        return self.launcher.launch([[*one, *row] for one in rest for row in in_step], initial_job_idx=0)

    def check_zip(self, counts: Dict[str, int]) -> None:  # noqa: UP006
        """Raise ConfigCompositionException where the keys in step are not swept, or over unequal numbers of values."""
        swept = sorted(key for key, count in counts.items() if count > 1)
        for key in self.zip:
            if key not in counts:
                close = difflib.get_close_matches(key, swept, 1, 0.5)
                hint = f"; did you mean '{close[0]}'?" if close else "."
                raise ConfigCompositionException(
                    f"zip names {key}, which is not swept{hint} Swept: {', '.join(swept) or 'nothing'}."
                )
        if len(set(self.zip)) < len(self.zip):
            raise ConfigCompositionException(f"zip={','.join(self.zip)} names a key twice.")
        if len({counts[key] for key in self.zip}) > 1:
            found = ", ".join(f"{key} has {counts[key]}" for key in self.zip)
            raise ConfigCompositionException(
                f"zip goes through keys in step, which needs as many values of each: {found}."
            )


class LtxLauncher(Launcher):
    """Give all points to the task's `sweep`, and tell it where they are to run; it keeps the exit code itself."""

    def __init__(self, **request: Any):
        self.request = request

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.task_function = task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        self.task_function.sweep([list(overrides) for overrides in job_overrides], self.request)
        return [JobReturn(overrides=overrides, status=JobStatus.COMPLETED) for overrides in job_overrides]


ConfigStore.instance().store(group="hydra/sweeper", name="ltx", node=SweeperConfig, provider="ltx")


def keys_of(launcher: str) -> Dict[str, Any]:  # noqa: UP006
    """Return what a launcher can be told, launcher.KEY=VALUE, with the values where none is given."""
    found = asdict(LAUNCHERS[launcher]())
    return {key: value for key, value in found.items() if key not in ("_target_", "kind")}


LAUNCHERS = {"local": LauncherConfig, "slurm": SlurmConfig, "ray": RayConfig}
for name, node in LAUNCHERS.items():
    ConfigStore.instance().store(group="hydra/launcher", name=name, node=node, provider="ltx")
