"""The charts of a page drawn twice: as SVG, which needs no script, and by Bokeh, which shows the values of a mark."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from ltx.report import style
from ltx.report.page_charts import Line, Map, Panel

HEIGHT = 2.1  # inches of a panel that is 9 cm wide
MOST_TICKS = 12
SHAPES = {
    "o": "circle",
    "s": "square",
    "^": "triangle",
    "D": "diamond",
    "v": "inverted_triangle",
    "P": "plus",
    "X": "x",
}  # Bokeh's names of style.MARKERS
INK, FRAME, GRID = "#333333", "#999999", "#E8E8E8"


def svg(panel: Panel) -> str:
    """Return a panel as an SVG picture, as the address of an image."""
    from matplotlib import rc_context

    figure, axes = style.page(1, HEIGHT)
    axis = axes[0, 0]
    add_lines(axis, panel)
    if panel.log_y:
        places = style.density_ticks(panel.ys[0], panel.ys[-1])
        axis.set_yscale("log")
        axis.minorticks_off()
        axis.set_yticks(places, [f"{place:g}" for place in places])
    axis.update_datalim([(panel.xs[0], panel.ys[0]), (panel.xs[-1], panel.ys[-1])])
    axis.autoscale_view()
    if panel.density:
        style.density_axis(axis, panel.xs)
    elif panel.marked:
        style.number_axis(axis, panel.xs, panel.xlabel)
    axis.set_xlabel(panel.xlabel)
    axis.set_ylabel(panel.ylabel)
    figure.subplots_adjust(left=0.15, right=0.98, bottom=0.19, top=0.97)
    found = io.BytesIO()
    with rc_context({"svg.hashsalt": "ltx"}):
        figure.savefig(found, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return address(found.getvalue(), "svg+xml")


def add_lines(axis: Axes, panel: Panel) -> None:
    """Draw a panel's lines, marks and intervals, each as one collection: hundreds of lines take long one by one."""
    from matplotlib.collections import LineCollection

    curves = [[*zip(line.xs, (y.mean for y in line.ys), strict=True)] for line in panel.lines]
    axis.add_collection(LineCollection(curves, colors=[line.colour for line in panel.lines], lw=0.8), autolim=False)
    marks = [(line, x, y) for line in panel.lines if panel.marked for x, y in zip(line.xs, line.ys, strict=True)]
    for marker in dict.fromkeys(line.marker for line, _, _ in marks):
        own = [(x, y.mean, line.colour) for line, x, y in marks if line.marker == marker]
        xs, ys, colours = zip(*own, strict=True)
        axis.scatter(xs, ys, s=6, c=colours, marker=marker, zorder=3)
    known = [(x, y.low, y.high, line.colour) for line, x, y in marks if not math.isnan(y.low)]
    if known:
        xs, lows, highs, colours = zip(*known, strict=True)
        axis.vlines(xs, lows, highs, colors=colours, lw=0.7)


def address(picture: bytes, kind: str) -> str:
    """Return a picture as the address of an image that needs no file."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def map_png(layers: Map, least: float) -> str:
    """Return the densities of a point's layers as a picture of a pixel each, as the address of an image.

    From `least`, the smallest density of the page, to 1 the blue gets darker with the logarithm; unknown is grey.
    """
    import numpy as np
    from matplotlib import colormaps, image

    values = np.array(layers.densities, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        shade = 0.08 + 0.84 * (1 - np.log(values) / math.log(min(least, 0.999)))
    colours = colormaps["Blues"](np.clip(np.nan_to_num(shade, nan=0, neginf=0), 0, 1), bytes=True)
    colours[np.isnan(values)] = (200, 200, 200, 255)
    found = io.BytesIO()
    image.imsave(found, colours, format="png")
    return address(found.getvalue(), "png")


def library() -> str:
    """Return the script of Bokeh, which stands in the page whole."""
    import bokeh

    return (Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js").read_text("utf-8")


def interactive(panel: Panel, target: str) -> str:
    """Return a panel as the JSON that Bokeh puts into the element named `target`."""
    from bokeh.embed import json_item
    from bokeh.models import HoverTool
    from bokeh.plotting import figure

    plot = figure(
        height=250,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,wheel_zoom,reset",
        active_drag=None,
        x_range=ends(panel.xs, panel.log_x)[:: -1 if panel.density else 1],
        y_range=ends(panel.ys, panel.log_y),
        x_axis_type="log" if panel.log_x else "linear",
        y_axis_type="log" if panel.log_y else "linear",
    )
    curves = plot.multi_line("xs", "ys", line_color="colour", line_width=1.4, source=of_lines(panel.lines))
    if panel.marked:
        look = {"marker": "shape", "fill_color": "colour", "line_color": "colour"}
        plot.segment("x", "low", "x", "high", line_color="colour", line_width=1.2, source=of_intervals(panel.lines))
        marks = plot.scatter("x", "y", size=6, source=of_marks(panel.lines), **look)
        tips = [("", "@name"), (panel.xlabel.partition(" (")[0], "@x"), ("", "@note")]
        hover = HoverTool(renderers=[marks], tooltips=tips)
    else:
        tips = [("", "@name"), (panel.xlabel, "$snap_x{0}"), (panel.ylabel, "$snap_y{0.0000}")]
        hover = HoverTool(renderers=[curves], tooltips=tips, line_policy="nearest")
    plot.add_tools(hover)
    dress(plot, panel)
    return json.dumps(json_item(plot, target), separators=(",", ":"))


def ends(values: Sequence[float], log: bool) -> tuple[float, float]:
    """Return the ends of an axis, a little outside of its values."""
    low, high = values[0], values[-1]
    if log:
        margin = (high / low) ** 0.05 if high > low else 1.5
        return low / margin, high * margin
    margin = 0.05 * (high - low) or abs(low) or 1
    return low - margin, high + margin


def ticks(values: Sequence[float], log: bool, marked: bool) -> list[float]:
    """Return where an axis has its ticks: at what was run, where that is little, else at round numbers; or nothing."""
    if marked and len(values) <= MOST_TICKS:
        return [*values]
    return style.density_ticks(values[0], values[-1]) if log else []


def of_lines(lines: Sequence[Line]) -> Any:
    """Return a row for each line."""
    from bokeh.models import ColumnDataSource

    columns: dict[str, list[Any]] = {
        "xs": [[number(x) for x in line.xs] for line in lines],
        "ys": [[number(y.mean) for y in line.ys] for line in lines],
        "name": [line.name for line in lines],
        "colour": [line.colour for line in lines],
    }
    return ColumnDataSource(columns)


def of_marks(lines: Sequence[Line]) -> Any:
    """Return a row for each mark."""
    from bokeh.models import ColumnDataSource

    marks = [(line, *mark) for line in lines for mark in zip(line.xs, line.ys, line.notes, strict=True)]
    columns: dict[str, list[Any]] = {
        "x": [number(x) for _, x, _, _ in marks],
        "y": [number(y.mean) for _, _, y, _ in marks],
        "note": [note for _, _, _, note in marks],
        "name": [line.name for line, _, _, _ in marks],
        "colour": [line.colour for line, _, _, _ in marks],
        "shape": [SHAPES[line.marker] for line, _, _, _ in marks],
    }
    return ColumnDataSource(columns)


def of_intervals(lines: Sequence[Line]) -> Any:
    """Return a row for each interval that there is."""
    from bokeh.models import ColumnDataSource

    known = [(line.colour, x, y) for line in lines for x, y in zip(line.xs, line.ys, strict=True) if y.low == y.low]
    columns: dict[str, list[Any]] = {
        "x": [number(x) for _, x, _ in known],
        "low": [number(y.low) for _, _, y in known],
        "high": [number(y.high) for _, _, y in known],
        "colour": [colour for colour, _, _ in known],
    }
    return ColumnDataSource(columns)


def number(value: float) -> float:
    """Return a number with the digits that a picture shows."""
    return float(f"{value:.5g}")


def dress(plot: Any, panel: Panel) -> None:
    """Give a plot of Bokeh the look of all other pictures; its ground is the page's, which also names the axes."""
    from bokeh.models import BasicTickFormatter, FixedTicker

    at_x = ticks(panel.xs, panel.log_x, panel.marked and not panel.density)
    at_y = ticks(panel.ys, panel.log_y, False)
    for axis, grid, places in ((plot.xaxis, plot.xgrid, at_x), (plot.yaxis, plot.ygrid, at_y)):
        if places:
            axis.ticker = grid.ticker = FixedTicker(ticks=places)
            axis.formatter = BasicTickFormatter(use_scientific=False)
    plot.toolbar.logo, plot.toolbar.autohide = None, True
    plot.background_fill_color = plot.border_fill_color = plot.outline_line_color = None
    plot.grid.grid_line_color = GRID
    for axis in plot.axis:
        axis.axis_line_color = axis.major_tick_line_color = FRAME
        axis.minor_tick_line_color = None
        axis.major_label_text_font_size = "11px"
        axis.major_label_text_color = INK
