"""What the runs of a command are called while they train: by what tells them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ltx.config.spec import Spec
from ltx.report.tables import Label, swept


def names(specs: Sequence[Spec], labels: Sequence[Label]) -> dict[str, str]:
    """Return the name of every run by its key: the part of its label that differs from another point's.

    A trunk is named by its method and by what all runs that stand on it share. A run that trains alone needs no name.
    """
    differing = [key for key in swept(labels) if key != "seeds"]
    facts = [{key: label[key] for key in differing if label.get(key) is not None} for label in labels]
    below = trunks(specs)
    found: dict[str, str] = {}
    for spec, own in zip(specs, facts, strict=True):
        found.setdefault(spec.key, text(own) or (method(spec) if below else ""))

    shared = {}
    for key, (trunk, standing) in below.items():
        first, *others = (facts[i] for i in standing)
        common = {k: v for k, v in first.items() if all(other.get(k) == v for other in others)}
        kept = {k: v for k, v in common.items() if k.partition(".")[0] not in ("method", "arm")}
        shared[key] = f"trunk {method(trunk)} {text(kept)}".strip()
    count = Counter(shared.values())
    for key, (_, standing) in below.items():
        unclear = count[shared[key]] > 1
        found.setdefault(key, shared[key] + (f" of {found[specs[standing[0]].key]}" if unclear else ""))
    return found


def trunks(specs: Sequence[Spec]) -> dict[str, tuple[Spec, list[int]]]:
    """Return by key the runs that are no points of the command, and the indices of the points that stand on them."""
    found: dict[str, tuple[Spec, list[int]]] = {}
    asked = {spec.key for spec in specs}
    for index, spec in enumerate(specs):
        below = spec.trunk
        while below is not None:
            if below.key not in asked:
                found.setdefault(below.key, (below, []))[1].append(index)
            below = below.trunk
    return found


def method(spec: Spec) -> str:
    """Return the name of a run's method."""
    return str(spec.config["method"]["name"])


def text(facts: dict[str, Any]) -> str:
    """Write facts as `width=4 method=imp`: the last part of a key, where it says enough; an arm by its name alone."""
    last = Counter(key.rpartition(".")[2] for key in facts)
    words = []
    for key, value in facts.items():
        tail = key.rpartition(".")[2]
        written = f"{value:g}" if isinstance(value, float) else str(value)
        words.append(written if key == "arm" else f"{tail if last[tail] == 1 else key}={written}")
    return " ".join(words)
