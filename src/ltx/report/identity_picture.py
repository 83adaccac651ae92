"""The picture of a comparison: which weights two masks keep, and what lies on the line between the networks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from ltx.analysis.identity import Identity
from ltx.report.identity_words import answer, percent
from ltx.report.layout import complete
from ltx.report.letters import SMALL
from ltx.report.style import COLOURS, look, page, within

PANELS = 3  # layers that are shown, those of the most weights
ACROSS = 150  # squares in a row or column of a panel, at most
KEPT = ("neither", "A alone", "B alone", "both")
INKS = ("#FFFFFF", COLOURS[0], COLOURS[1], "#000000")


def picture(found: Identity, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Figure:
    """Draw the masks of the largest layers above, and loss and error between the networks below."""
    layers = sorted(found.layers, key=lambda name: -found.layers[name][0].total)[:PANELS]
    layers = [name for name in found.layers if name in layers]
    figure, panels = page(1 + len(layers), 1.5, 2)
    grid = panels[0, 0].get_gridspec()
    for axes in panels[: len(layers)].flat:
        axes.remove()
    for row, name in enumerate(layers):
        masks(figure.add_subplot(grid[row, :]), name, one[name], other[name], found)
    restated = any(line.restated for line in found.lines)
    for axes, of in zip(panels[-1], ("loss", "error"), strict=True):
        between(axes, found, of, restated)
    words = (
        f"A: {found.one.name}. B: {found.other.name}. Above, a row of squares is an output unit; a square of a large "
        "layer has the mean colour of several weights. Below: the test part, between A and B."
    )
    return complete(figure, answer(found), words)


def masks(axes: Axes, name: str, one: Tensor, other: Tensor, found: Identity) -> None:
    """Draw which weights of a layer are kept by either or both; several weights in one square where there are many."""
    state = (one.flatten(1).int() + 2 * other.flatten(1).int()).numpy()
    if max(state.shape) <= ACROSS * 4:
        axes.imshow(state, aspect="auto", cmap=ListedColormap(INKS), vmin=0, vmax=3, interpolation="nearest")
    else:
        axes.imshow(mixed(state), aspect="auto", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    overlap, null = found.layers[name]
    title = f"{name.removesuffix('.weight')}: IoU {percent(overlap.iou)}, by chance {percent(null.mean)}"
    axes.set_title(title, fontsize=SMALL, pad=3)
    for ink, label in zip(INKS[1:], KEPT[1:], strict=True):
        axes.plot([], [], "s", color=ink, ms=4, label=label)


def mixed(state: np.ndarray) -> np.ndarray:
    """Return the mean colour of the weights in each of at most ACROSS times ACROSS squares."""
    colours = np.array([[int(ink[i : i + 2], 16) / 255 for i in (1, 3, 5)] for ink in INKS])
    rows, columns = (np.minimum(np.arange(n) * min(ACROSS, n) // n, ACROSS - 1) for n in state.shape)
    height, width = rows[-1] + 1, columns[-1] + 1
    places = (rows[:, None] * width + columns).ravel()
    totals = np.bincount(places, minlength=height * width)
    sums = [np.bincount(places, colours[state.ravel(), i], height * width) / totals for i in range(3)]
    return np.stack(sums, 1).reshape(height, width, 3)


def between(axes: Axes, found: Identity, of: str, restated: bool) -> None:
    """Draw loss or error along the line, a curve for each order of B's units."""
    lines = [line for line in found.lines if line.of == of and line.part == "test" and line.restated == restated]
    for index, line in enumerate(lines):
        xs = np.linspace(0, 1, len(line.values))
        axes.plot(xs, line.values, label=f"units of B {line.order}", **{**look(index + 3), "ms": 2})
    axes.set_xticks([0, 0.5, 1], ["A", "", "B"])
    within(axes, 0)
    axes.set_ylabel(f"test {of}")
