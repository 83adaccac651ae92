"""What all workers elsewhere have in common: their command, what they are asked for, and a root that they all see."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltx.errors import BadInput
from ltx.store.sweeps import SweepFolder

LOCAL = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "ramfs", "overlay", "vfat", "exfat", "ntfs")
MOUNTS = Path("/proc/self/mounts")


def command_of(place: SweepFolder, request: Mapping[str, Any]) -> list[str]:
    """Return the command of a worker; it trusts code outside ltx where the sweep's own command named some."""
    words = [sys.executable, "-u", "-m", "ltx.cli", "work", str(place.path.absolute())]
    return [*words, f"workers={request['per_task']}", *(["trust=true"] if request["trust"] else [])]


def check_least(request: Mapping[str, Any], least: Mapping[str, int]) -> None:
    """Raise BadInput where one of a request's numbers is below the least that makes sense."""
    for key, number in least.items():
        if request[key] < number:
            raise BadInput(f"launcher.{key}={request[key]} should be {number} or more.")


def local_disk(folder: Path) -> str | None:
    """Return the kind of file system a folder is on where that is one of this machine's own disks, else None.

    None too where nothing says what is mounted.
    """
    try:
        lines = MOUNTS.read_text().splitlines()
    except OSError:
        return None
    kind, depth = "", 0
    place = folder.absolute().resolve()
    for line in lines:
        fields = line.split()
        if len(fields) > 2:
            point = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), fields[1]))  # \\040 is a blank
            if place.is_relative_to(point) and len(point.parts) >= depth:  # of several on one folder the last counts
                kind, depth = fields[2], len(point.parts)
    return kind if kind in LOCAL else None
