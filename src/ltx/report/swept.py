"""Which keys a sweep varied, and which of them a picture puts on its horizontal axis."""

from __future__ import annotations

from collections.abc import Sequence

from ltx.errors import BadInput, nearest
from ltx.report.tables import Label, swept
from ltx.report.wording import is_number


def check_chosen(key: str, labels: Sequence[Label]) -> None:
    """Raise BadInput where `plot=KEY` names no key that was swept."""
    known = swept(labels)
    if not known:
        raise BadInput(f"plot={key} chooses the horizontal axis of a sweep's picture, and here nothing is swept.")
    if key not in known:
        raise BadInput(f"plot={key} should name a key that the sweep varies{nearest(key, known)}")


def axes_of(labels: Sequence[Label], chosen: str | None = None) -> tuple[str | None, list[str]]:
    """Return the key of the horizontal axis, None where none is numeric, and the other keys that tell points apart.

    The axis is the chosen key, or the numeric one of most values, width before others. A key that follows from the rest
    tells nothing more and is left out: one in step with the axis, or one that each method has at a value of its own.
    """
    keys = swept(labels)
    numeric = [key for key in keys if all(is_number(str(label.get(key))) for label in labels)]
    names = sorted((key for key in keys if key not in numeric), key=lambda key: key != "method")
    free = [key for key in numeric if not follows(key, names, labels)]
    x = chosen or max(free, key=lambda key: (len({float(at[key]) for at in labels}), key == "width"), default=None)
    others: list[str] = []
    for key in [*names, *free]:
        if key != x and not follows(key, [*([x] if x else []), *others], labels):
            others.append(key)
    return x, others


def follows(key: str, others: Sequence[str], labels: Sequence[Label]) -> bool:
    """Tell whether the values of other keys decide that of this one."""
    found: dict[tuple[str, ...], str] = {}
    for label in labels:
        at = tuple(str(label.get(other)) for other in others)
        if found.setdefault(at, str(label.get(key))) != str(label.get(key)):
            return False
    return bool(others)
