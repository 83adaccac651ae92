"""Workers on a Ray cluster: actors that outlive the command, each minding one `ltx work`."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from socket import gethostname
from typing import Any

from ltx.errors import BadInput, Failed, printable
from ltx.launch.elsewhere import check_least, command_of
from ltx.store.files import canonical, commit, side_file
from ltx.store.sweeps import SweepFolder

NAMESPACE = "ltx"
NONE_HERE = "Could not find any running Ray instance"  # what Ray says where it looked for a cluster by itself
ENDED = (0, 2, 3, 130)  # done, refused, failed in a way that would happen again, and interrupted: not begun again
PAUSE = 5.0  # seconds until a command that was killed is begun again
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
own: list[int] = []  # this process, where it started a cluster that ends with it


class Minder:
    """An actor that runs a command until it has ended by itself, and begins it again where it was killed.

    Ray starts an actor anew, elsewhere, when its process or its node dies. The command ends with its minder. It runs in
    `folder`, where the sweep's own command was given, since paths and modules of the user's may be meant from there.
    """

    def __init__(self, command: list[str], folder: str, log: str, restarts: int):
        self.command, self.folder, self.log, self.restarts = command, folder, log, restarts
        threading.Thread(target=self.mind, daemon=True).start()

    def mind(self) -> None:
        """Run the command, and then leave the cluster."""
        import ray

        try:
            for _ in range(self.restarts + 1):
                with open(self.log, "ab") as log:
                    if subprocess.call(self.command, stdout=log, stderr=log, **self.options()) in ENDED:
                        break
                time.sleep(PAUSE)
        finally:
            ray.kill(ray.get_runtime_context().current_actor)

    def options(self) -> dict[str, Any]:
        """Return where the command runs, and that it ends when this process does."""
        return {"cwd": self.folder, "preexec_fn": end_with_parent}


def end_with_parent() -> None:
    """Let this process be sent SIGTERM when the one that started it dies; on Linux, elsewhere it goes on."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)


def ends_with_this_process() -> bool:
    """Tell whether the workers end with the command, as those of a cluster do that it started itself."""
    return bool(own)


def connect(address: str | None) -> None:
    """Connect to a cluster, once; start one of this machine where there is none. Raises BadInput."""
    try:
        import ray
    except ImportError as error:
        raise BadInput("hydra/launcher=ray needs ray: pip install 'ltx[ray]'.") from error
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": "error"}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of what it will do some day
    named = address or os.environ.get("RAY_ADDRESS")
    refusals = ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError
    try:
        try:
            ray.init(address=named or "auto", **quiet)
        except refusals as error:
            if named is not None or NONE_HERE not in str(error):
                raise
            ray.init(address="local", include_dashboard=False, **quiet)
            own.append(os.getpid())
    except refusals as error:
        which = f"launcher.address={address} is" if address else f"RAY_ADDRESS={named} is" if named else "there is"
        *_, why = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise BadInput(
            f"{which} no Ray cluster that answers ({printable(why)}); `ray status` shows whether one runs and what it "
            "asks for, and where none does a local one is started without an address."
        ) from error


def check(request: Mapping[str, Any], root: Path) -> None:
    """Raise BadInput where there is no cluster, or one of its nodes does not see the root."""
    check_least(request, {"workers": 1, "per_task": 1, "restarts": 0})
    connect(request["address"])
    import ray

    total, asked = ray.cluster_resources(), {"CPU": request["cpus"] or request["per_task"], "GPU": request["gpus"]}
    for kind, wanted in asked.items():
        if wanted > max((node["Resources"].get(kind, 0) for node in ray.nodes() if node["Alive"]), default=0):
            raise BadInput(f"a worker wants {wanted:g} {kind}, and no node has them; in all there are {total}.")
    blind = [] if request["shared"] else blind_nodes(root)
    if blind:
        raise BadInput(
            f"root={root} is not seen by {', '.join(blind)}: it is on a disk of {gethostname()} alone. Give root=DIR "
            "on a file system that all nodes share."
        )


def blind_nodes(root: Path) -> list[str]:
    """Return the nodes that do not see a folder, by a file that is there for the moment."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    folder = root.absolute()
    while not folder.exists():
        folder = folder.parent
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    with tempfile.NamedTemporaryFile(prefix=".ltx-", dir=folder) as file:
        strategy = NodeAffinitySchedulingStrategy
        ask = ray.remote(num_cpus=0)(is_there)
        asked = {
            node["NodeManagerHostname"] + f" ({node['NodeManagerAddress']})": ask.options(
                scheduling_strategy=strategy(node["NodeID"], soft=False)
            ).remote(file.name)
            for node in nodes
        }
        return sorted(name for name, answer in asked.items() if not ray.get(answer, timeout=60))


def is_there(path: str) -> bool:
    """Tell whether a file is there."""
    return os.path.exists(path)


def submit(request: Mapping[str, Any], place: SweepFolder, count: int, cores: int) -> str:
    """Start `count` minders of workers, whose seeds take so many `cores`, and return what they are called together."""
    import ray

    logs = place.path.absolute() / "ray"
    logs.mkdir(parents=True, exist_ok=True)
    taken = {name.rpartition("/")[2] for name in alive(place)}
    numbers = [str(n) for n in range(len(taken) + count) if str(n) not in taken][:count]
    resources = {"num_cpus": request["cpus"] or request["per_task"] * cores, "num_gpus": request["gpus"]}
    if request["memory"]:
        resources["memory"] = int(request["memory"] * 1e9)
    remote: Any = ray.remote
    minder = remote(lifetime="detached", max_restarts=-1, **resources)(Minder)
    told, restarts = (command_of(place, request), os.getcwd()), request["restarts"]
    for number in numbers:
        minder.options(name=f"{place.path.name}/{number}").remote(*told, str(logs / f"{number}.log"), restarts)
    cluster = {"workers": count, "address": ray.get_runtime_context().gcs_address, "host": gethostname()}
    commit(logs / "cluster.json", canonical(cluster).encode())
    return f"{place.path.name}/{numbers[0]}" + (f" to {numbers[-1]}" if count > 1 else "")


def alive(place: SweepFolder) -> list[str]:
    """Return the names of a sweep's minders that are there."""
    import ray

    names = ray.util.list_named_actors()
    return [name for name in names if name.startswith(f"{place.path.name}/")]


def cancel(place: SweepFolder) -> list[str]:
    """End a sweep's minders, and return what there is to say."""
    found = side_file(place.path / "ray" / "cluster.json")
    if not found:
        return []
    try:
        connect(str(found.get("address")))
        import ray

        names = alive(place)
        for name in names:
            ray.kill(ray.get_actor(name))
    except (BadInput, Failed, ValueError) as error:
        return [f"ray: its cluster does not answer ({error}); workers of it end by themselves"]
    return [f"ray: {len(names)} workers are taken out"] if names else []
