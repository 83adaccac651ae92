"""What `ltx compare` prints: tables of what two tickets share, and the answer in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.table import Table

from ltx.analysis.identity import IDENTITY, SHOWN, WEIGHTS, Identity
from ltx.analysis.intervals import interval
from ltx.analysis.overlap import Null, Overlap
from ltx.report.grid import Line, fitting, grid, without

STABLE = 0.02  # the rise of the error below which two networks count as connected (Frankle et al. 2020, section 3)
AS_OFTEN = 0.9  # of what a search shares with itself beyond chance: from here on two masks are as alike as that
NULLS = {
    "layer": "layer: each layer's count",
    "degree": "degree: every unit's counts",
    "size": "size: counts by layer and |w_0|",
}
MASKS = (
    "IoU: weights that both keep / weights that either keeps; below it that of random masks which keep what is named, "
    "± its standard deviation; z: standard deviations of the shared count above chance, p: the chance of so many; "
    "corrected: 0 at chance, 1 where one mask lies in the other"
)
WEIGHT_WORDS = (
    "with norms folded and hidden units balanced; cosine: of all weights of a unit, mean over units; distance: 0 "
    "equal, 1 orthogonal; fixed: units that keep their place; unrelated: other inits of B's run, weights matched"
)
LINE_WORDS = (
    "how far loss or error rises on the straight line, above the mean of its ends / above the chord between them"
)


def number(value: float, digits: int = 3) -> str:
    """Write a number, - where there is none."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def percent(share: float) -> str:
    """Write a share in percent, - where there is none."""
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


def tables(found: Identity, room: int) -> Iterator[Table]:
    """Yield the tables of a comparison, those that have something to show, in a width of `room`."""
    yield grid(side_lines(found))
    yield grid(mask_lines(found), ("masks against",), caption=MASKS)
    if len(found.layers) > 1:
        lines = [layer_line(name, *of) for name, of in found.layers.items()]
        yield grid(fitting([lines, without(lines, "weights"), without(lines, "weights", "shared")], room), ("layer",))
    if found.alike:
        yield grid(alike_lines(found), ("units of B",), caption=WEIGHT_WORDS)
    if found.lines:
        yield grid(barrier_lines(found), ("on the line", "units of B"), caption=LINE_WORDS)


def side_lines(found: Identity) -> list[Line]:
    """Return a line for each of the two."""
    return [
        {
            "": name,
            "found by": side.found_by,
            "seed": str(side.seed),
            "level": str(side.level),
            "density": percent(side.density),
            "test accuracy": number(side.accuracy, 4),
            "dead units": str(side.dead),
        }
        for name, side in (("A", found.one), ("B", found.other))
    ]


def mask_lines(found: Identity) -> list[Line]:
    """Return a line for what is there, for each null, and for what a search shares with itself."""
    lines: list[Line] = [{"masks against": "A and B", "IoU": percent(found.overlap.iou)}]
    for name, null in found.nulls.items():
        cells = {"z": number(null.z, 1), "p": p_text(null.p), "corrected": number(null.corrected)}
        lines.append({"masks against": NULLS[name], "IoU": f"{percent(null.mean)} ± {100 * null.sd:.1f}", **cells})
    for ceiling in found.ceilings:
        lines.append({"masks against": f"{ceiling.of}'s search, run twice", "IoU": percent(ceiling.iou)})
    return lines


def p_text(p: float) -> str:
    """Write a chance."""
    return f"{p:.2g}" if p >= 1e-4 else "<.0001"


def layer_line(name: str, overlap: Overlap, null: Null) -> Line:
    """Return the line of one layer."""
    return {
        "layer": name.removesuffix(".weight"),
        "weights": f"{overlap.total:,}",
        "A keeps": f"{overlap.one:,}",
        "B keeps": f"{overlap.other:,}",
        "shared": f"{overlap.shared:,}",
        "IoU": percent(overlap.iou),
        "chance": percent(null.mean),
        "z": number(null.z, 1),
    }


def alike_lines(found: Identity) -> list[Line]:
    """Return a line for each order of B's units, and one for the mean over unrelated networks."""
    rows = [(name, [alike]) for name, alike in found.alike.items()]
    if found.unrelated:
        rows.append((f"unrelated (n={len(found.unrelated)})", found.unrelated))
    return [
        {
            "units of B": name,
            "IoU of masks": percent(mean([alike.iou for alike in group])),
            "cosine": number(mean([alike.cosine for alike in group])),
            "distance": number(mean([alike.distance for alike in group])),
            "fixed": percent(mean([alike.fixed for alike in group])),
        }
        for name, group in rows
    ]


def mean(values: list[float]) -> float:
    """Return the mean."""
    return math.fsum(values) / len(values)


def barrier_lines(found: Identity) -> list[Line]:
    """Return a line for each order of B's units and quantity, a column for each part and definition."""
    lines: dict[tuple[str, str, bool], dict[str, str]] = {}
    several = any(line.restated for line in found.lines)
    for line in found.lines:
        cells = lines.setdefault((line.order, line.of, line.restated), {})
        name = line.of + (
            ", statistics estimated anew" if line.restated else ", statistics on the line" if several else ""
        )
        cells |= {"on the line": name, "units of B": line.order}
        cells[line.part] = f"{line.barrier.above_mean:.4f} / {line.barrier.above_chord:.4f}"
    return list(lines.values())


def answer(found: Identity) -> str:
    """Return in words whether the two are the same ticket."""
    whole = found.overlap
    if whole.one == whole.other == whole.total:
        return "Both keep every weight, so that their masks tell nothing."
    if whole.shared == whole.one == whole.other:
        return "The same ticket: both masks keep exactly the same weights."
    shared = f"the masks share {percent(whole.iou)} of what either keeps"
    name, null = max(found.nulls.items(), key=lambda item: item[1].mean)
    given = {
        "layer": "given how many weights each layer keeps",
        "degree": "given how many weights each unit keeps",
        "size": "given the layers and how large the initial weights were",
    }[name]
    chance = f"chance shares {percent(null.mean)} {given}"
    least = min((null.z for null in found.nulls.values() if not math.isnan(null.z)), default=math.nan)
    if not least >= SHOWN:
        return f"Not the same ticket: {shared}, no more than by chance ({chance})."
    ceilings = sorted((one for one in found.ceilings if one.iou > null.mean), key=lambda one: one.iou)
    if ceilings:
        reached = [(whole.iou - null.mean) / (ceiling.iou - null.mean) >= AS_OFTEN for ceiling in ceilings]
        twice = " and ".join(f"two runs of {ceiling.of}'s search share {percent(ceiling.iou)}" for ceiling in ceilings)
        if all(reached) and ceilings[-1].iou > 0.5:
            return f"The same ticket, as far as a search finds one twice: {shared}; {chance}, {twice}."
        other = f" {ceilings[0].of}'s search finds another ticket each time." if reached[0] else ""
        return f"Related, but not the same ticket: {shared}; {chance}, {twice}.{other}"
    inside = "mostly the same" if null.corrected > 0.5 else "related, but not the same"
    return f"{inside.capitalize()} ticket: {shared}, where {chance} (z = {least:.1f})."


def sentences(found: Identity) -> Iterator[str]:
    """Yield the answer, what renaming units adds, how far both agree, what lies between, and what is missing."""
    yield answer(found)
    if not found.same_init:
        yield "A and B begin with different weights, so that without renaming units chance is all that masks can share."
    if found.alike:
        yield renamed(found)
    if not math.isnan(found.disagreement):
        yield f"They classify {percent(found.disagreement)} of the test examples differently."
    for line in found.lines:
        if line.of == "error" and line.part == "test" and line.restated == any(one.restated for one in found.lines):
            rise = line.barrier.above_mean
            verdict = "connected" if rise < STABLE else "a barrier lies between them"
            order = "its units renamed to match" if line.order == WEIGHTS else f"its units {line.order}"
            yield f"On the straight line from A to B with {order} the test error rises by {percent(rise)}: {verdict}."
    for note in found.notes:
        yield f"note: {note}."
    yield from found.missing


def renamed(found: Identity) -> str:
    """Say what the best order of B's units adds, beside what it adds for unrelated networks."""
    plain, matched = found.alike[IDENTITY], found.alike[WEIGHTS]
    text = (
        f"With B's units renamed to match, the masks share {percent(matched.iou)} (before: {percent(plain.iou)}) and "
        f"units have a mean cosine of {matched.cosine:.2f} (before: {plain.cosine:.2f})"
    )
    if not found.unrelated:
        return f"{text}; what matching makes of unrelated networks is not known, for B's run has no other seed."
    shares = interval([alike.iou for alike in found.unrelated], 0, 1)
    more = matched.iou > max(alike.iou for alike in found.unrelated)
    word = "more than" if more else "no more than"
    return f"{text}; {word} unrelated networks, matched likewise, share: {percent(shares.mean)} (n={shares.n})."


def plain(found: Identity) -> dict[str, Any]:
    """Return a comparison as JSON holds it, its raw overlap first; null stands for what is not known."""
    record = {"iou": found.overlap.iou, "answer": answer(found), **asdict(found)}
    return {key: known(value) for key, value in record.items()}


def known(value: Any) -> Any:
    """Replace NaN, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: known(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [known(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
