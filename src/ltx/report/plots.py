"""The pictures of a run and of a sweep, and the one style all pictures share."""

from __future__ import annotations

import hashlib
import io
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ltx.analysis.intervals import mean_interval
from ltx.report.tables import Label, compared
from ltx.store.files import Damaged, canonical, commit, content
from ltx.store.rows import Row, by_level

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#000000",
)  # Okabe & Ito: distinct for colour-blind readers
DPI = 150
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def draw(rows: Sequence[Row], title: str) -> Any:
    """Draw accuracy and early-stop step against density, the dense level as reference, censored stops hollow."""
    from matplotlib.figure import Figure

    blue, orange, grey = COLOURS[0], COLOURS[1], "#555555"
    figure = Figure(figsize=(7, 6))  # without a layout engine, which would draw everything twice
    room = {"right": 0.97, "top": 0.92, "bottom": 0.09, "hspace": 0.08}
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw=room)
    groups = by_level(rows)
    densities = [100 * group[0].density for group in groups.values()]
    for column, label, colour, marker in (
        ("test_accuracy", "last step", blue, "o"),
        ("early_stop_test_accuracy", "early stop", orange, "s"),
    ):
        means, halves = zip(*(mean_interval([getattr(r, column) for r in g]) for g in groups.values()), strict=True)
        errors = [0 if math.isnan(h) else h for h in halves]
        top.errorbar(densities, means, yerr=errors, color=colour, marker=marker, ms=4, lw=1.2, capsize=2, label=label)
        if column == "test_accuracy" and densities[0] == 100:
            top.axhline(means[0], color=grey, ls="--", lw=0.8, label="dense")
    top.set_ylabel("test accuracy")
    last = rows[0].step
    stops = {d: [r.early_stop_step for r in g] for d, g in zip(densities, groups.values(), strict=True)}
    known = {d: [s for s in values if s is not None] for d, values in stops.items()}
    whole = [d for d in densities if len(known[d]) == len(stops[d])]
    means_halves = [mean_interval(known[d]) for d in whole]
    bottom.errorbar(
        whole,
        [mean for mean, _ in means_halves],
        yerr=[0 if math.isnan(half) else half for _, half in means_halves],
        color=orange,
        marker="s",
        ms=4,
        lw=1.2,
        capsize=2,
        label="mean of seeds",
    )
    censored = [d for d in densities if d not in whole]
    points = [(d, s) for d in censored for s in known[d]]
    if points:
        at, steps = [density for density, _ in points], [step for _, step in points]
        bottom.plot(at, steps, "s", color=orange, ms=3, alpha=0.5, label="a seed, others censored")
    if censored:
        bottom.plot(
            censored, [last] * len(censored), "^", mfc="none", color=grey, label="censored: at least the last step"
        )
    bottom.set(ylabel="early-stop step", xlabel="density: weights kept, %", xscale="log", ylim=(0, 1.08 * max(last, 1)))
    round_ones = [m * 10.0**e for e in range(2, -6, -1) for m in (5, 2, 1)]
    ticks = [tick for tick in round_ones if min(densities) <= tick <= max(densities)] or densities
    bottom.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    bottom.minorticks_off()
    bottom.invert_xaxis()
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    n = len({r.seed for r in rows})
    top.set_title(f"{title}\n{n} seed{'s' if n > 1 else ''}, mean and 95 % interval", fontsize=9)
    return figure


def save_plot(figure: Any, path: Path, of: str | None = None) -> Path:
    """Save a matplotlib figure whole or not at all, in the format of the path's suffix; a PNG says what it is `of`."""
    buffer = io.BytesIO()
    keep = {"Software": None, **({"ltx": of} if of else {})} if path.suffix == ".png" else {"CreationDate": None}
    figure.savefig(buffer, format=path.suffix[1:], dpi=DPI, metadata=keep)
    commit(path, buffer.getvalue())
    return path


def drawn_rows(rows: Sequence[Row]) -> str:
    """Return the digest of the rows that a picture shows."""
    return hashlib.sha256(canonical([{**row.columns(), "layers": row.layers} for row in rows]).encode()).hexdigest()


def is_picture(path: Path, of: str) -> bool:
    """Tell whether a PNG is whole, chunk by chunk, and says that it is `of` this (see `save_plot`)."""
    try:
        left = content(path) or b""
    except Damaged:
        return False
    if left[:8] != b"\x89PNG\r\n\x1a\n":
        return False
    left, last, ours = left[8:], b"", False
    while left:
        size, name = int.from_bytes(left[:4], "big"), left[4:8]
        data, check = left[8 : 8 + size], left[8 + size : 12 + size]
        if zlib.crc32(name + data).to_bytes(4, "big") != check:
            return False
        ours = ours or (name == b"tEXt" and data == b"ltx\0" + of.encode())
        last, left = name, left[12 + size :]
    return ours and last == b"IEND"


def draw_sweep(points: Sequence[Label], rows: Sequence[Sequence[Row]], title: str) -> Any:
    """Draw test accuracy of the last level against width, a line per setting of everything else."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    varying = [
        name
        for name in dict.fromkeys(name for point in points for name in point)
        if name != "width" and len({str(point.get(name)) for point in points}) > 1
    ]
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for point, group in zip(points, compared(rows), strict=True):
        if group:
            parts = [f"{n.rpartition('.')[2]}={point[n]}" if "." in n else str(point[n]) for n in varying if n in point]
            mean, half = mean_interval([r.test_accuracy for r in group])
            lines.setdefault(" ".join(parts) or "all", []).append(
                (point["width"], mean, 0 if math.isnan(half) else half)
            )
    for i, (label, values) in enumerate(lines.items()):
        width, means, halves = zip(*sorted(values), strict=True)
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        axes.errorbar(width, means, yerr=halves, color=colour, marker=marker, ms=4, lw=1.2, capsize=2, label=label)
    axes.set(xscale="log", xlabel="width", ylabel="test accuracy")
    ticks = sorted({point["width"] for point in points})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    axes.set_title(f"{title}\nmean and 95 % interval over seeds", fontsize=9)
    return figure
