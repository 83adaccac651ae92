"""Joining a sweep that another command began: its points as this machine has them, and what must be equal for that."""

from __future__ import annotations

import calendar
import contextlib
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from socket import gethostname
from typing import Any

from ltx.config.names import check_trusted, own_names
from ltx.config.spec import Spec
from ltx.errors import BadInput
from ltx.runs.checks import check_machine, check_weights
from ltx.store.files import Damaged
from ltx.store.sweeps import Record, SweepFolder

CHANGES = ("device", "threads", "workers", "retry_failed", "fail_fast", "wait", "wandb.mode")  # a worker may choose
HOUR = 3600.0


def specs_of(place: SweepFolder, changes: Mapping[str, Any], trust: bool) -> list[Spec]:
    """Return the points of a sweep as they were asked for, with this machine's root and the `changes` of a worker.

    Raises BadInput where this process would not compute the same: another version of ltx, other code for a class of the
    user's own, other data, or a clock that is hours off. Code outside ltx is imported only with `trust`.
    """
    record = place.record()
    try:
        begun, configs = place.configs()
    except Damaged as error:
        raise BadInput(f"{error}; its own command, run again, begins it anew.") from error
    if begun != version("ltx"):
        raise BadInput(
            f"{place.path.name} was begun by ltx {begun}, and this is ltx {version('ltx')} on {gethostname()}: their "
            f"numbers may differ. Install ltx {begun} here, or run the sweep's command again with one version on all."
        )
    check_clock(place, record)
    if len(configs) != len(record.points):
        raise BadInput(
            f"{place.record_path} and {place.configs_path} are not of the same points; the sweep's own command, run "
            "again, writes both anew."
        )
    specs = []
    for config, point in zip(configs, record.points, strict=True):
        check_trusted(config, trust, (), place.configs_path, "trust=true")
        specs.append(changed(config, place, changes))
        if specs[-1].key != point.run:
            raise BadInput(other_key(specs[-1], point.run))
    return specs


def changed(config: Mapping[str, Any], place: SweepFolder, changes: Mapping[str, Any]) -> Spec:
    """Return a point's spec with this machine's root and what a worker chose, which its trunks get as well."""
    config = {**config, **{key: value for key, value in changes.items() if "." not in key}, "root": str(place.root)}
    if "wandb.mode" in changes:
        config["wandb"] = {**config["wandb"], "mode": changes["wandb.mode"]}
    spec = Spec.of(config)
    check_machine(spec)
    if spec.start is not None and spec.start.path.exists():
        check_weights(spec)
    return spec


def other_key(spec: Spec, wanted: str) -> str:
    """Say why this machine would give a point another key, and so other numbers."""
    own = sorted(own_names(spec.config))
    if own:
        why = f"the code of {' or '.join(own)} is not the one that the sweep was begun with"
    elif spec.config["data"].get("path") is not None:
        why = f"what lies at data.path={spec.config['data']['path']} is not the data that the sweep was begun with"
    else:
        why = "this version of ltx computes other numbers"
    here = gethostname()
    return f"{wanted} would be {spec.key} on {here}: {why}. Bring it up to date there, or leave {here} out."


def check_clock(place: SweepFolder, record: Record | None = None) -> None:
    """Raise BadInput where the clock of this machine is hours away from that of the root's file system or of others.

    Ages, and whether a process of another machine is alive, are read off the times of files.
    """
    folder = place.path
    while not folder.exists():
        folder = folder.parent
    with tempfile.NamedTemporaryFile(prefix=".ltx-", dir=folder) as file:
        written = Path(file.name).stat().st_mtime
    off, whose = time.time() - written, f"the file system of {place.path}"
    if record is not None and abs(off) <= HOUR:
        with contextlib.suppress(ValueError):  # a record without a time
            begun = calendar.timegm(time.strptime(record.time, "%Y-%m-%dT%H:%M:%SZ"))
            off, whose = min(0.0, time.time() - begun), "the machine that began the sweep"
    if abs(off) > HOUR:
        raise BadInput(
            f"the clock of {gethostname()} is {abs(off) / HOUR:.1f} hours {'behind' if off < 0 else 'ahead of'} that "
            f"of {whose}, so that nobody could tell living workers from dead ones; set the clock (ntpd, chronyd) first."
        )
