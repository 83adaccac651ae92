"""Whether other machines can see a folder."""

from __future__ import annotations

import re
from pathlib import Path

LOCAL = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "ramfs", "overlay", "vfat", "exfat", "ntfs")
MOUNTS = Path("/proc/self/mounts")


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
