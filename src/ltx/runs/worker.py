"""What a worker does with a seed: claim its folder, compute the levels that are missing, and keep what failed."""

from __future__ import annotations

import contextlib
import json
import traceback
from pathlib import Path
from typing import Any

import torch

from ltx.config.spec import Spec
from ltx.launch.signals import interrupted
from ltx.runs.capacity import memory_of_this_process
from ltx.runs.checks import pick_device
from ltx.runs.levels import LevelLoop, Report
from ltx.runs.peers import Peers
from ltx.store.claims import Claim, Lost
from ltx.store.files import commit
from ltx.store.folders import RunFolder
from ltx.store.seeds import SeedFolder
from ltx.training.watch import Diverged


def run_seed(config: dict[str, Any], directory: str, seed: int, report: Report) -> None:
    """Claim a seed's folder and compute the levels that are not there yet, in order, each committed when it ends.

    Reports ("progress", (level, step, loss)) and ("level", row), after which ("memory", Memory) where it takes more
    than before; ("diverged", failure); and ("held", None) where another process has the claim or took it over. A
    failure that would happen again is kept in the seed's folder; an OSError (disk full, say) is not, nor one that a
    library put in the place of an interrupt.
    """
    torch.set_num_threads(config["threads"])
    report = with_memory(report, pick_device(config["device"]))
    folder = RunFolder(Path(directory)).seed(seed)
    claim = Claim(folder.claim_path)
    if not claim.attempt():
        report("held", None)
        return
    try:
        folder.mend()
        folder.forget_failure()
        compute(config, folder, claim, report)
    except Lost:
        report("held", None)
    except Diverged as error:
        failure = {"kind": "diverged", "level": error.level, "step": error.step, "reason": str(error)}
        commit(folder.failure_path, json.dumps(failure).encode())
        report("diverged", failure)
    except Exception as error:  # whatever it is, it is kept beside the seed's files and raised again below
        if not isinstance(error, OSError) and not interrupted():
            reason = f"{type(error).__name__}: {error}"
            failure = {"kind": "raised", "reason": reason, "traceback": traceback.format_exc()}
            commit(folder.failure_path, json.dumps(failure).encode())
        raise
    finally:
        claim.release()


def with_memory(report: Report, device: str) -> Report:
    """Return a report that also says what this process takes of its device: first, and where it became a tenth more."""
    most = 0.0

    def both(kind: str, value: Any) -> None:
        nonlocal most
        report(kind, value)
        if kind in ("progress", "level"):
            memory = memory_of_this_process(device)
            if memory is not None and memory.taken > 1.1 * most:
                most = memory.taken
                report("memory", memory)

    return both


def compute(config: dict[str, Any], folder: SeedFolder, claim: Claim, report: Report) -> None:
    """Compute the missing levels of a seed whose folder is claimed."""
    try:
        spec = Spec.of(config)
        run = folder.path.parent
        if run.parent.name == "runs" and run.name != spec.key:
            raise OSError(f"what {run.name} reads of data.path has changed since it was begun: that makes another run")
        several = config["trainer"]["devices"] > 1
        with Peers(config) if several else contextlib.nullcontext() as peers:
            loop = LevelLoop(spec, folder, report, claim.check, peers)
            for level in range(loop.method.last_level + 1):
                if loop.tensors(level) is None:
                    loop.compute(level)
    except SystemExit as stopped:
        raise RuntimeError(f"the point called exit({stopped.code})") from stopped
