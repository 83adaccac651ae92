"""Workers in Slurm: an array of `ltx work`, submitted through submitit; the store hands out the jobs."""

from __future__ import annotations

import logging
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from socket import gethostname
from typing import Any

from ltx.errors import BadInput, Failed, nearest, printable
from ltx.launch.elsewhere import check_least, command_of, local_disk
from ltx.store.files import canonical, commit, side_file
from ltx.store.sweeps import SweepFolder

# The shell that Slurm starts outlives a worker that is killed, and has it begun again. One that is done (0), refused
# (2), or failed in a way that would happen again (3) is not, nor one that was interrupted before its time was over.
SCRIPT = """\
near_end=
trap 'near_end=1; kill -TERM "$worker" 2>/dev/null' USR2
{command} &
worker=$!
wait "$worker"; code=$?
if [ -n "$near_end" ]; then wait "$worker"; code=$?; fi
case $code in 0|2|3) exit $code;; esac
if [ $code = 130 ] && [ -z "$near_end" ]; then exit $code; fi
if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
  echo "ltx: the worker ended with $code; it is requeued."
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
fi
exit $code"""


def asked(arguments: list[str], seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands. Raises Failed where it does not answer."""
    try:
        return subprocess.run(arguments, capture_output=True, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{arguments[0]} does not answer ({error}); is this machine part of the cluster?") from error


def check(request: Mapping[str, Any], root: Path) -> None:
    """Raise BadInput where the request cannot be submitted from here, before anything is written."""
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise BadInput("hydra/launcher=slurm needs submitit: pip install 'ltx[slurm]'.") from error
    for program in ("sbatch", "srun", "squeue", "scontrol"):
        if shutil.which(program) is None:
            raise BadInput(
                f"hydra/launcher=slurm needs {program} on the PATH, which is not there on {gethostname()}: run the "
                "command on a login node of the cluster, or leave the launcher out to work on this machine."
            )
    check_least(request, {"workers": 1, "per_task": 1, "minutes": 2, "gpus": 0, "restarts": 0, "before_end": 1})
    if 60 * request["minutes"] <= request["before_end"]:
        raise BadInput(
            f"launcher.before_end={request['before_end']} seconds should be less than the {request['minutes']} minutes "
            "of launcher.minutes."
        )
    found = asked(["sinfo", "--noheader", "--format=%R %D"])
    if found.returncode:
        raise Failed(f"sinfo says: {printable(found.stderr.strip())}")
    nodes = {line.split()[0]: int(line.split()[1]) for line in found.stdout.splitlines() if len(line.split()) == 2}
    partition = request["partition"]
    if partition is not None and partition not in nodes:
        raise BadInput(f"launcher.partition={partition} is not a partition{nearest(partition, [*nodes])}")
    most = nodes[partition] if partition is not None else max(nodes.values(), default=1)
    kind = local_disk(root)
    if kind and most > 1 and not request["shared"]:
        raise BadInput(
            f"root={root} is on a local disk of {gethostname()} ({kind}), which the {most} nodes of the cluster do not "
            "see; give root=DIR on a file system that they share. Where they do see it, say launcher.shared=true."
        )


def ends_with_this_process() -> bool:
    """Tell whether the workers end with the command; those of Slurm never do."""
    return False


def submit(request: Mapping[str, Any], place: SweepFolder, count: int, cores: int) -> str:
    """Submit an array of `count` workers of a sweep and return its number. Raises BadInput where Slurm refuses it.

    A seed that is trained takes so many `cores`.
    """
    import submitit

    logs = place.path.absolute() / "slurm"
    logs.mkdir(parents=True, exist_ok=True)
    executor = submitit.SlurmExecutor(logs)
    cpus = request["cpus"] or request["per_task"] * cores
    options = {name: request[name] for name in ("partition", "account", "qos", "constraint") if request[name]}
    if request["gpus"]:
        options["gpus_per_node"] = request["gpus"]
    if request["memory"]:
        options["mem"] = f"{request['memory']:g}GB"
    executor.update_parameters(
        job_name=f"ltx {place.path.name}",
        time=request["minutes"],
        cpus_per_task=cpus,
        use_srun=False,  # the shell below must outlive its worker
        stderr_to_stdout=True,
        setup=list(request["setup"]),
        additional_parameters={
            "array": f"0-{count - 1}",
            "output": f"{logs}/%A_%a.log",
            "signal": f"B:USR2@{request['before_end']}",
            "requeue": True,
            **request["options"],
        },
        **options,
    )
    command = shlex.join(command_of(place, request))
    logging.getLogger("submitit").setLevel(logging.ERROR)
    try:
        # submitit's other ways pickle a function into the shared folder, where others could put their own
        job = executor._submit_command(SCRIPT.format(command=command, restarts=request["restarts"]))
    except submitit.core.utils.FailedJobError as error:
        raise BadInput(f"Slurm refuses the workers: {refusal(str(error))}") from error
    told = {"job": str(job.job_id), "workers": count, "host": gethostname(), "partition": request["partition"]}
    commit(logs / f"{job.job_id}.json", canonical(told).encode())
    return str(job.job_id)


def refusal(said: str) -> str:
    """Return what sbatch gave as its reason."""
    lines = [line.partition("error:")[2].strip() for line in said.splitlines() if "error:" in line]
    return printable("; ".join(lines) or " ".join(said.split())).rstrip(".") + "."


def submitted(place: SweepFolder) -> list[str]:
    """Return the numbers of the arrays that were submitted for a sweep, in their order."""
    found = [str(side_file(path).get("job")) for path in (place.path / "slurm").glob("*.json")]
    return sorted((job for job in found if re.fullmatch(r"\d+", job)), key=int)


def alive(place: SweepFolder) -> list[str]:
    """Return the workers of a sweep, ARRAY_TASK, that wait in the queue or run."""
    found = []
    for job in submitted(place):
        answer = asked(["squeue", "--noheader", "--array", "--format=%i", "--jobs", job])
        if not answer.returncode:  # Slurm forgets old jobs, and refuses their numbers
            found += answer.stdout.split()
    return found


def cancel(place: SweepFolder) -> list[str]:
    """Take a sweep's workers out of Slurm, and return what there is to say."""
    jobs = submitted(place)
    if not jobs:
        return []
    if shutil.which("scancel") is None:
        return [f"scancel is not on the PATH of {gethostname()}: workers of job {', '.join(jobs)} end by themselves"]
    left = alive(place)
    if not left:
        return []
    answer = asked(["scancel", *left])
    if answer.returncode:
        raise Failed(f"scancel says: {printable(answer.stderr.strip())}")
    return [f"slurm: {len(left)} workers are taken out ({', '.join(sorted({one.split('_')[0] for one in left}))})"]
