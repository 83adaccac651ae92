"""The picture of a sweep, which follows what was swept: curves over a numeric key, or a row of dots a setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ltx.analysis.intervals import Interval, interval
from ltx.config.spec import Spec
from ltx.report import wording
from ltx.report.layout import complete, label_ends
from ltx.report.letters import SMALL, wrapped
from ltx.report.style import (
    BAND,
    beside,
    curve,
    dashed,
    dot,
    dot_axis,
    number_axis,
    page,
    seen,
    spread,
    within,
)
from ltx.report.swept import axes_of
from ltx.report.tables import Label, compared
from ltx.store.rows import Row

PANEL, ROW = 1.9, 0.19  # inches: the height of a panel of curves, and of a row of dots


@dataclass(frozen=True)
class Spot:
    """A point of the sweep in its picture: where it stands, in whose line, in which panel or row, and what it is."""

    x: float
    line: str
    panel: str
    mean: Interval
    density: float
    dense: Interval  # of the run's own dense level
    sparse: bool


def draw_sweep(
    specs: Sequence[Spec], labels: Sequence[Label], rows: Sequence[Sequence[Row]], chosen: str | None = None
) -> Figure:
    """Draw test accuracy against what was swept; `chosen` names the key of the horizontal axis."""
    x, others = axes_of(labels, chosen)
    numeric = x is not None and all(wording.is_number(str(label.get(x))) for label in labels)
    if x is None or numeric:
        along, across = others[:1] + others[2:], others[1:2]
    else:
        along, across = others, [x]
    if x is None:
        along, across = [], others  # a row for each point
    names = {key: wording.of_values(key, [label.get(key) for label in labels]) for key in (*along, *across)}
    name, least = wording.score(specs[0])
    spots = []
    for label, group, at in zip(labels, rows, compared(rows), strict=True):
        if at:
            line, panel = (", ".join(names[key][str(label.get(key))] for key in keys) for keys in (along, across))
            dense = [row.test_accuracy for row in group if row.level == 0 and row.density == 1]
            mean, sparse = interval([row.test_accuracy for row in at], least, 1), at[0].density < 1
            place = float(label[x]) if x is not None and numeric else 0
            own = interval(dense, least, 1)
            own_line = line or wording.subject(specs[0])
            spots.append(Spot(place, own_line, panel, mean, at[0].density, own, sparse))
    if numeric:
        assert x is not None
        figure = curves(spots, wording.of_key(x), name, least)
        by = f", by {wording.of_short_key(x)}"
    else:
        figure = dots(spots, name, least)
        by = ""
    return complete(figure, wording.capital(f"{name}{wording.titles(specs)}{by}"), caption(spots))


def curves(spots: Sequence[Spot], xlabel: str, name: str, least: float) -> Figure:
    """Draw a line for each setting of some keys, and a panel for each of others."""
    headings, lines = (list(dict.fromkeys(values)) for values in ([s.panel for s in spots], [s.line for s in spots]))
    columns = 1 if len(headings) < 4 else 2
    figure, panels = page(-(-len(headings) // columns), PANEL, columns, sharex=True, sharey=True)
    handles: dict[str, Any] = {}
    for axes, heading in zip(panels.flat, headings, strict=False):
        here = [spot for spot in spots if spot.panel == heading]
        for index, line in enumerate(lines):
            own = sorted((spot for spot in here if spot.line == line), key=lambda spot: spot.x)
            if own:
                moved = beside(index, len(lines), len(own), columns)
                handles[line] = curve(axes, [s.x for s in own], [s.mean for s in own], line, index, moved)
        handles |= dense_line(axes, here)
        axes.set_title(heading, fontsize=SMALL + 0.5, pad=3, parse_math=False)
    for axes in panels.flat[len(headings) :]:
        axes.set_axis_off()
    within(panels.flat[0], least, 1)
    for axes in panels[:, 0]:
        axes.set_ylabel(name)
    for axes in panels[-1]:
        number_axis(axes, [spot.x for spot in spots], xlabel)
    if len(handles) == 1:
        next(iter(handles.values())).set_label("_the only line")
    elif len(headings) == 1:
        label_ends(panels[0, 0], list(handles.values()), 0.75 * PANEL)
    return figure


def dense_line(axes: Axes, spots: Sequence[Spot]) -> dict[str, Any]:
    """Draw the dense networks of a panel with their intervals as a band, where all its lines began with the same."""
    at: dict[float, Interval] = {}
    for spot in spots:
        if not spot.sparse or not spot.dense.n or at.setdefault(spot.x, spot.dense) != spot.dense:
            return {}
    xs = sorted(at)
    means, lows, highs = ([getattr(at[x], name) for x in xs] for name in ("mean", "low", "high"))
    axes.fill_between(xs, lows, highs, color=BAND, lw=0, zorder=0.5)
    seen(axes, [y for y in (*means, *lows, *highs) if y == y])
    return {"dense": axes.plot(xs, means, label="dense", **dashed())[0]}


def dots(spots: Sequence[Spot], name: str, least: float) -> Figure:
    """Draw a row for each setting of some keys, named in full, and in it a dot with its interval for each of others."""
    places, lines = (list(dict.fromkeys(values)) for values in ([s.panel for s in spots], [s.line for s in spots]))
    labels = ["\n".join(wrapped(place, 95, SMALL)) for place in places]
    height = max(1, 0.55 * len(lines), *(0.55 * (1 + label.count("\n")) for label in labels))
    figure, panels = page(1, ROW * height * len(places) + 0.45)
    for index, line in enumerate(lines):
        own = [spot for spot in spots if spot.line == line]
        moved = -spread(index, len(lines), 6 * (len(lines) - 1))
        ys = [places.index(spot.panel) for spot in own]
        label = line if len(lines) > 1 else "_the only one"
        dot(panels[0, 0], [spot.mean for spot in own], ys, label, index, moved)
    dot_axis(panels[0, 0], labels, name, least, 1)
    return figure


def caption(spots: Sequence[Spot]) -> str:
    """Say of how many seeds the means are, and at which density what was taken."""

    def spans(name: str) -> dict[str, str]:
        groups: dict[str, list[float]] = {}
        for spot in spots:
            groups.setdefault(getattr(spot, name), []).append(100 * spot.density)
        return {label: span(values) for label, values in groups.items()}

    by_line, by_panel = spans("line"), spans("panel")
    found = by_panel if any(" to " in text for text in by_line.values()) else by_line
    if len(set(found.values())) == 1:
        where = f"All at {next(iter(found.values()))} density (kept / prunable weights)."
    elif len(found) <= 8:
        where = "The densities (kept / prunable weights) differ: "
        where += ", ".join(f"{label} {text}" for label, text in found.items()) + "."
    else:
        whole = span([100 * spot.density for spot in spots])
        where = f"The densities (kept / prunable weights) differ: {whole}."
    return f"{wording.seeds(spot.mean.n for spot in spots)} {where}"


def span(values: Sequence[float]) -> str:
    """Write the smallest and the largest percentage, once where they are the same."""
    return " to ".join(dict.fromkeys(f"{value:.3g}" for value in (min(values), max(values)))) + " %"
