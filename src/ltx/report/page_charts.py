"""The charts of a page as plain values: which panels, which lines in each, and what is said of every mark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib import colormaps
from matplotlib.colors import to_hex

from ltx.analysis.intervals import Interval
from ltx.report import wording
from ltx.report.page_data import Content, Point, Step
from ltx.report.style import COLOURS, MARKERS
from ltx.report.swept import axes_of
from ltx.report.tables import compared, interval_text, of_scores, swept
from ltx.store.rows import by_level

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
    found = [by_x(points, names), by_density(points, names), *learning(points, names)]
    return [chart for chart in found if chart is not None]


def by_x(points: Sequence[Point], names: Names) -> Chart | None:
    """Return test accuracy against the numeric key that was swept, a line for each setting of the others."""
    x = names.x
    if x is None:
        return None
    spots: dict[str, list[tuple[float, Interval, str]]] = {}
    for point, rows in zip(points, compared([point.rows for point in points]), strict=True):
        mean = of_scores([row.test_accuracy for row in rows])
        note = f"{interval_text(mean)}, n = {mean.n}, {percent(rows[0].density)} kept"
        spots.setdefault(names.among_others(point), []).append((float(point.label[x]), mean, note))
    lines = []
    for index, (name, own) in enumerate(spots.items()):
        xs, ys, notes = zip(*sorted(own, key=lambda spot: spot[0]), strict=True)
        lines.append(Line(name, *look(index), xs, ys, notes))
    panel = Panel("", wording.of_key(x), ACCURACY, lines, *values_of(lines))
    caption = "Every point at the level that the table compares; bars: the 95 % interval over seeds."
    short = wording.of_short_key(x)
    return Chart("by-x", f"Test accuracy against {short}", caption, [panel], named(lines))


def by_density(points: Sequence[Point], names: Names) -> Chart | None:
    """Return test accuracy against density, a line through the levels of each point that has several."""
    looks = names.looks()

    def line(point: Point) -> Line:
        groups = by_level(point.rows)
        ys = [of_scores([row.test_accuracy for row in rows]) for rows in groups.values()]
        xs = [100 * math.fsum(row.density for row in rows) / len(rows) for rows in groups.values()]
        notes = [
            f"level {level}, {percent(x / 100)} kept: {interval_text(y)}, n = {y.n}"
            for level, x, y in zip(groups, xs, ys, strict=True)
        ]
        return Line(names.in_panel(point), *looks[point.key], xs, ys, notes)

    several = [point for point in points if len({row.level for row in point.rows}) > 1]
    panels = in_panels(several, names, line, DENSITY, ACCURACY, density=True) if several else []
    if len({x for panel in panels for x in panel.xs}) < 2:
        return None
    caption = (
        "A line through the levels of each point, the dense network at the left; bars: the 95 % interval over seeds."
    )
    return Chart("by-density", "Test accuracy against density", caption, panels, legend_of(panels))


def learning(points: Sequence[Point], names: Names) -> list[Chart]:
    """Return validation loss and accuracy by step: of each point at the level compared, or of every level of one."""
    looks, single = names.looks(), len(points) == 1
    at = {point.key: rows[0].level for point, rows in zip(points, compared([p.rows for p in points]), strict=True)}
    curved = [
        point
        for point in points
        if any(point.curves.get(level) for level in (point.curves if single else (at[point.key],)))
    ]
    if not curved:
        return []

    def chart(name: str, title: str, value: Callable[[Step], float], log: bool) -> Chart:
        def drawn(steps: Sequence[Step], called: str, colour: str, marker: str) -> Line:
            ys = [Interval(value(step), math.nan, math.nan, step.n) for step in steps]
            return Line(called, colour, marker, [step.step for step in steps], ys)

        if single:
            found = {level: steps for level, steps in points[0].curves.items() if steps}
            shades = zip(found.items(), from_dark(len(found)), strict=True)
            lines = [drawn(steps, f"level {level}", colour, "o") for (level, steps), colour in shades]
            panels = [Panel("", "step", title, lines, *values_of(lines), log_y=log)]
        else:
            panels = in_panels(
                curved,
                names,
                lambda point: drawn(point.curves[at[point.key]], names.in_panel(point), *looks[point.key]),
                "step",
                title,
                log_y=log,
            )
        caption = "Mean over seeds" + ("." if single else ", each point at the level that the table compares.")
        return Chart(name, wording.capital(title), caption, panels, legend_of(panels))

    least = min(step.loss for point in curved for steps in point.curves.values() for step in steps)
    return [
        chart("loss", "validation loss", lambda step: step.loss, least > 0),
        chart("accuracy", "validation accuracy", lambda step: step.accuracy, False),
    ]


def in_panels(
    points: Sequence[Point],
    names: Names,
    line: Callable[[Point], Line],
    xlabel: str,
    ylabel: str,
    density: bool = False,
    log_y: bool = False,
) -> list[Panel]:
    """Return a panel for each method where several were swept, else one, with the line of each point."""
    groups: dict[str, list[Line]] = {}
    for point in points:
        groups.setdefault(names.panel(point), []).append(line(point))
    xs, ys = values_of([line for lines in groups.values() for line in lines])
    return [Panel(heading, xlabel, ylabel, lines, xs, ys, density, log_y) for heading, lines in groups.items()]


def values_of(lines: Sequence[Line]) -> tuple[list[float], list[float]]:
    """Return the values that lines have on either axis, each once, the ends of intervals among them."""
    ys = {value for line in lines for y in line.ys for value in (y.mean, y.low, y.high) if not math.isnan(value)}
    return sorted({x for line in lines for x in line.xs}), sorted(ys)


def legend_of(panels: Sequence[Panel]) -> list[tuple[str, str, str]]:
    """Return what a legend of all panels says."""
    return named([line for panel in panels for line in panel.lines])


def named(lines: Sequence[Line]) -> list[tuple[str, str, str]]:
    """Return the names of lines with colours and markers, each once; of many some, evenly, with both ends."""
    found = list(dict.fromkeys((line.name, line.colour, line.marker) for line in lines))
    last, most = len(found) - 1, MOST_NAMED - 1
    return found if last <= most else [found[round(i * last / most)] for i in range(MOST_NAMED)]


def percent(density: float) -> str:
    """Write a density as a table does."""
    return f"{100 * density:.2f} %"


def maps(content: Content) -> list[Map]:
    """Return the layers' densities of the points that prune any, the mean over seeds."""
    points = [point for point in content.points if any(row.layers for row in point.rows)]
    names = Names(points)
    found = []
    for point in points:
        groups = by_level(point.rows)
        layers = list(dict.fromkeys(layer for row in point.rows for layer in row.layers))

        def mean(layer: str, level: int, groups: dict = groups) -> float:  # type: ignore[type-arg]
            values = [row.layers[layer] for row in groups[level] if layer in row.layers]
            return math.fsum(values) / len(values) if values else math.nan

        if any(row.density < 1 for row in point.rows):
            densities = [[mean(layer, level) for level in groups] for layer in layers]
            found.append(Map(names.whole(point), layers, [*groups], densities))
    return found
