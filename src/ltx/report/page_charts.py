"""The charts of a page as plain values: which panels, which lines in each, and what is said of every mark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib import colormaps
from matplotlib.colors import to_hex

from ltx.analysis.intervals import Interval
from ltx.report import wording
from ltx.report.page_data import Content, Point, Step
from ltx.report.style import COLOURS, MARKERS
from ltx.report.swept import axes_of
from ltx.report.tables import compared, interval_text, of_scores, swept
from ltx.store.rows import Row, by_level

Mark = tuple[float, Interval, str]  # where it stands, its mean, and what is said of it
MOST_PANELS = 8
MOST_NAMED = 10  # lines of a legend
DENSITY, ACCURACY = "weights kept (% of prunable weights)", "test accuracy"


@dataclass(frozen=True)
class Line:
    """A line of a panel: its means with their intervals, and what is said of each mark; a long curve has no marks."""

    name: str
    colour: str
    marker: str
    xs: Sequence[float]
    ys: Sequence[Interval]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Panel:
    """Some lines over the same axes. Over `density` the dense networks stand at the left of a logarithmic axis.

    `xs` and `ys` are all values of the panels beside one another, which share their axes.
    """

    heading: str
    xlabel: str
    ylabel: str
    lines: Sequence[Line]
    xs: Sequence[float]
    ys: Sequence[float]
    density: bool = False
    log_y: bool = False

    @property
    def log_x(self) -> bool:
        """Whether the horizontal axis is logarithmic: that of densities, or of swept values that span a decade."""
        return self.density or (self.marked and min(self.xs) > 0 and max(self.xs) >= 10 * min(self.xs))

    @property
    def marked(self) -> bool:
        """Whether every mean has its mark, as swept values and levels have, and steps have not."""
        return any(line.notes for line in self.lines)


@dataclass(frozen=True)
class Chart:
    """Panels below one heading, with the lines that a legend names: their names, colours and markers."""

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]
    legend: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Map:
    """The density of each layer of a point at each of its levels, nan where it is not known."""

    name: str
    layers: Sequence[str]
    levels: Sequence[int]
    densities: Sequence[Sequence[float]]  # by layer, then level


class Names:
    """How points are named and coloured: a panel for each method where several were swept, and a line for each point.

    Values of the horizontal axis go from dark to light; where there is no such axis, lines have the colours of all
    other pictures.
    """

    def __init__(self, points: Sequence[Point]):
        self.points, self.labels = points, [point.label for point in points]
        keys = swept(self.labels)
        self.x, self.others = axes_of(self.labels)
        self.words = {key: wording.of_values(key, [label.get(key) for label in self.labels]) for key in keys}
        several = "method" in keys and len(self.words["method"]) <= MOST_PANELS
        self.panel_key = "method" if several else None

    def value(self, point: Point, key: str) -> str:
        """Name the value of a key."""
        return self.words[key][str(point.label.get(key))]

    def panel(self, point: Point) -> str:
        """Name the panel of a point, which is empty where there is one for all."""
        return self.value(point, self.panel_key) if self.panel_key else ""

    def among_others(self, point: Point) -> str:
        """Name the line of a point whose place on the horizontal axis is the value of x."""
        return ", ".join(self.value(point, key) for key in self.others)

    def in_panel(self, point: Point) -> str:
        """Name the point within its panel."""
        keys = [key for key in (self.x, *self.others) if key and key != self.panel_key]
        return ", ".join(self.value(point, key) for key in keys) or self.panel(point) or point.key

    def whole(self, point: Point) -> str:
        """Name the point among all."""
        keys = [key for key in (*self.others, self.x) if key]
        return ", ".join(self.value(point, key) for key in keys) or point.key

    def looks(self) -> dict[str, tuple[str, str]]:
        """Return the colour and the marker of each point within its panel, by its key."""
        if self.x is not None:
            x = self.x
            values = sorted({float(label[x]) for label in self.labels})
            shades = dict(zip(values, from_dark(len(values)), strict=True))
            return {point.key: (shades[float(point.label[x])], "o") for point in self.points}
        names = list(dict.fromkeys(map(self.in_panel, self.points)))
        return {point.key: look(names.index(self.in_panel(point))) for point in self.points}


def look(index: int) -> tuple[str, str]:
    """Return the colour and the marker of the line with this index, as in all pictures."""
    return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]


def from_dark(n: int) -> list[str]:
    """Return n colours from dark to light, of which both ends are seen on white and, turned round, on black."""
    return [to_hex(colormaps["viridis"](0.1 + 0.7 * i / max(1, n - 1))) for i in range(n)]


def charts(content: Content) -> list[Chart]:
    """Return the charts that the points of a page have something for."""
    points = [point for point in content.points if point.rows]
    if not points:
        return []
    names = Names(points)
    found = [by_x(points, names, names.x)] if names.x else []
    found += [by_density(points, names), *learning(points, names)]
    return [chart for chart in found if chart.panels]


def by_x(points: Sequence[Point], names: Names, x: str) -> Chart:
    """Return test accuracy against a numeric key that was swept, a line for each setting of the others."""
    spots: dict[str, list[Mark]] = {}
    for point, rows in zip(points, compared([point.rows for point in points]), strict=True):
        mean = of_scores([row.test_accuracy for row in rows])
        note = f"{interval_text(mean)}, n = {mean.n}, {percent(rows[0].density)} kept"
        spots.setdefault(names.among_others(point), []).append((float(point.label[x]), mean, note))
    lines = []
    for index, (name, marks) in enumerate(spots.items()):
        lines.append(("", line(name, look(index), sorted(marks, key=lambda mark: mark[0]))))
    panels = in_panels(lines, wording.of_key(x), ACCURACY)
    caption = "Every point at the level that the table compares; bars: the 95 % interval over seeds."
    return Chart("by-x", f"Test accuracy against {wording.of_short_key(x)}", caption, panels, legend_of(panels))


def by_density(points: Sequence[Point], names: Names) -> Chart:
    """Return test accuracy against density, a line through the levels of each point that has several densities."""
    looks, lines = names.looks(), []
    for point in points:
        marks: list[Mark] = []
        for level, rows in by_level(point.rows).items():
            mean, density = of_scores([row.test_accuracy for row in rows]), fmean(row.density for row in rows)
            note = f"level {level}, {percent(density)} kept: {interval_text(mean)}, n = {mean.n}"
            marks += [(100 * density, mean, note)] if density > 0 else []
        if len({x for x, _, _ in marks}) > 1:
            lines.append((names.panel(point), line(names.in_panel(point), looks[point.key], marks)))
    panels = in_panels(lines, DENSITY, ACCURACY, density=True)
    caption = "A line through the levels of each point, the dense at the left; bars: the 95 % interval over seeds."
    return Chart("by-density", "Test accuracy against density", caption, panels, legend_of(panels))


def learning(points: Sequence[Point], names: Names) -> list[Chart]:
    """Return validation loss and accuracy by step: of each point at the level compared, or of every level of one."""
    looks, single = names.looks(), len(points) == 1
    curves: list[tuple[str, str, tuple[str, str], Sequence[Step]]] = []  # panel, name, look, steps
    if single:
        levels = points[0].curves
        colours = from_dark(len(levels))
        curves = [("", f"level {n}", (colour, "o"), levels[n]) for n, colour in zip(levels, colours, strict=True)]
    else:
        at = [rows[0].level for rows in compared([point.rows for point in points])]
        curves = [
            (names.panel(point), names.in_panel(point), looks[point.key], point.curves.get(level, ()))
            for point, level in zip(points, at, strict=True)
        ]
    caption = "Mean over seeds" + ("." if single else ", each point at the level that the table compares.")

    def chart(name: str, title: str, value: Callable[[Step], float]) -> Chart:
        lines = []
        for panel, called, own, steps in curves:
            ys = [Interval(value(step), math.nan, math.nan, step.n) for step in steps]
            lines.append((panel, Line(called, *own, [step.step for step in steps], ys)))
        panels = in_panels(lines, "step", title, log_y=name == "loss")
        return Chart(name, wording.capital(title), caption, panels, legend_of(panels))

    return [
        chart("loss", "validation loss", lambda step: step.loss),
        chart("accuracy", "validation accuracy", lambda step: step.accuracy),
    ]


def line(name: str, own_look: tuple[str, str], marks: Sequence[Mark]) -> Line:
    """Return the line through marks; those whose mean is no number are left out."""
    known = [mark for mark in marks if math.isfinite(mark[1].mean)]
    return Line(name, *own_look, [x for x, _, _ in known], [y for _, y, _ in known], [note for _, _, note in known])


def in_panels(
    lines: Sequence[tuple[str, Line]], xlabel: str, ylabel: str, density: bool = False, log_y: bool = False
) -> list[Panel]:
    """Return panels by the headings beside lines; a vertical axis is logarithmic only where all values are positive."""
    drawn = [(heading, own) for heading, own in lines if own.xs]
    if not drawn:
        return []
    xs, ys = values_of([own for _, own in drawn])
    return [
        Panel(
            heading, xlabel, ylabel, [own for at, own in drawn if at == heading], xs, ys, density, log_y and ys[0] > 0
        )
        for heading in dict.fromkeys(heading for heading, _ in drawn)
    ]


def values_of(lines: Sequence[Line]) -> tuple[list[float], list[float]]:
    """Return the values that lines have on either axis, each once, the ends of intervals among them."""
    ys = {value for own in lines for y in own.ys for value in (y.mean, y.low, y.high) if not math.isnan(value)}
    return sorted({x for own in lines for x in own.xs}), sorted(ys)


def legend_of(panels: Sequence[Panel]) -> list[tuple[str, str, str]]:
    """Return the names of lines with colours and markers, each once; of many some, evenly, with both ends."""
    found = list(dict.fromkeys((own.name, own.colour, own.marker) for panel in panels for own in panel.lines))
    last, most = len(found) - 1, MOST_NAMED - 1
    return found if last <= most else [found[round(i * last / most)] for i in range(MOST_NAMED)]


def percent(density: float) -> str:
    """Write a density as a table does."""
    return f"{100 * density:.2f} %"


def maps(content: Content) -> list[Map]:
    """Return the layers' densities of the points that prune any, the mean over seeds."""
    points = [point for point in content.points if any(row.layers and row.density < 1 for row in point.rows)]
    names = Names(points)
    return [Map(names.whole(point), *layer_densities(point.rows)) for point in points]


def layer_densities(rows: Sequence[Row]) -> tuple[list[str], list[int], list[list[float]]]:
    """Return layers, levels, and by layer and level the mean density over seeds, nan where it is not known."""
    groups = by_level(rows)
    layers = list(dict.fromkeys(layer for row in rows for layer in row.layers))

    def mean(layer: str, group: Sequence[Row]) -> float:
        values = [row.layers[layer] for row in group if layer in row.layers]
        return fmean(values) if values else math.nan

    return layers, [*groups], [[mean(layer, group) for group in groups.values()] for layer in layers]
