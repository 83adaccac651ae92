"""Words that a person gives to a run, in a file of its directory that neither its key nor its levels know of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from ltx.store.files import commit, side_file

TAG = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # wandb takes tags of up to 64 characters


def tags_path(run: Path) -> Path:
    """Return where a run's tags are."""
    return run / "tags.json"


def tags(run: Path) -> list[str]:
    """Return a run's tags, in the order in which they were given; what is no tag is left out."""
    found = side_file(tags_path(run)).get("tags")
    words = found if isinstance(found, list) else []
    return list(dict.fromkeys(word for word in words if isinstance(word, str) and TAG.fullmatch(word)))


def write_tags(run: Path, words: Iterable[str]) -> None:
    """Write a run's tags."""
    commit(tags_path(run), (json.dumps({"tags": [*words]}) + "\n").encode())
