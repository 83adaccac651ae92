"""Draw docs/architecture.png: the rooms of src/ltx in the rows of tests/test_imports.py, arrows from the imports.

    python scripts/architecture.py [FILE.png]

An arrow from a room to one below it says that the upper one imports the lower one. An arrow that follows from others is
left out. The ground floor, which every room may use, is one box.
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from test_imports import ROWS, imports

REPOSITORY = Path(__file__).resolve().parents[1]
GROUND = "ground"
HEIGHT, STEP = 0.62, 1.0  # of a box, and from row to row
PLACES = {  # of each room: its middle, its width (both in parts of the picture) and what it is
    "cli": (0.4, 0.32, "commands and key=value"),
    "figures": (0.3, 0.32, "a paper's arms and claims"),
    "export": (0.72, 0.32, "tickets that leave ltx"),
    "identity": (0.54, 0.32, "two tickets compared"),
    "api": (0.76, 0.3, "ltx.run, ltx.open_run"),
    "runs": (0.63, 0.36, "what is missing, and doing it"),
    "report": (0.54, 0.32, "tables, plots, progress"),
    "launch": (0.885, 0.2, "where workers live"),
    "config": (0.54, 0.52, "composed, checked, named, built"),
    "training": (0.49, 0.24, "one level of one seed"),
    "models": (0.12, 0.22, "networks of a width"),
    "data": (0.355, 0.22, "examples, batches"),
    "methods": (0.59, 0.22, "plan, mask, weights"),
    "store": (0.845, 0.27, "what is on disk"),
    GROUND: (0.5, 0.98, "pure functions: no files, no processes"),
}
FILL, EDGE, GREY = "#EAF2F8", "#0072B2", "#444444"


def room(module: str) -> str:
    """Return the room of a module; those of the lowest row are one."""
    top = module.partition(".")[0]
    return GROUND if top in ROWS[0] else top


def arrows() -> dict[str, set[str]]:
    """Return of each room those it imports, without those that one of these imports too, directly or not."""
    found: dict[str, set[str]] = {name: set() for name in PLACES}
    for name, (ours, _) in imports().items():
        if name:
            found[room(name)] |= {room(other) for other in ours} - {room(name)}

    def reached(name: str) -> set[str]:
        return found[name].union(*(reached(other) for other in found[name]))

    return {name: below - set[str]().union(*(reached(other) for other in below)) for name, below in found.items()}


def heights() -> dict[str, float]:
    """Return the middle of each room's box, by its row."""
    return {name: STEP * row for row, names in enumerate(ROWS) for name in ([GROUND] if row == 0 else names)}


def draw() -> Figure:
    """Draw the rooms and their arrows."""
    figure = Figure(figsize=(4.72, 6.5))  # 12 cm
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, 1), ylim=(-0.95, STEP * len(ROWS) - 0.5))
    axes.set_axis_off()
    height = heights()
    for name, (middle, width, what) in PLACES.items():
        title = "   ".join(ROWS[0]) if name == GROUND else name
        box(axes, middle, height[name], width, title, what)
    below = arrows()
    for name, others in below.items():
        ordered = sorted(others, key=lambda other: PLACES[other][0])
        for number, other in enumerate(ordered):
            above = [up for up in sorted(below, key=lambda up: PLACES[up][0]) if other in below[up]]
            start = spread(name, number, len(ordered))
            end = start if other == GROUND else spread(other, above.index(name), len(above))
            arrow(axes, (start, height[name] - HEIGHT / 2), (end, height[other] + HEIGHT / 2))
    axes.text(0.01, -0.75, "an arrow: imports; what follows from other arrows is left out", fontsize=6, color=GREY)
    return figure


def spread(name: str, number: int, of: int) -> float:
    """Return where the arrow with a number leaves or meets a box, so that several keep apart."""
    middle, width, _ = PLACES[name]
    return middle + 0.6 * width * ((number + 0.5) / of - 0.5)


def box(axes: Axes, middle: float, height: float, width: float, title: str, what: str) -> None:
    """Draw a room."""
    corner = (middle - width / 2, height - HEIGHT / 2)
    style = "round,pad=0,rounding_size=0.015"
    axes.add_patch(FancyBboxPatch(corner, width, HEIGHT, style, mutation_aspect=6, fc=FILL, ec=EDGE, lw=0.9))
    axes.text(middle, height + 0.12, title, ha="center", va="center", fontsize=8, weight="bold")
    axes.text(middle, height - 0.15, what, ha="center", va="center", fontsize=6.3, color=GREY)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow downwards."""
    assert end[1] < start[1], "an arrow would point upwards"
    style = {"arrowstyle": "-|>", "color": GREY, "lw": 0.9, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
    axes.annotate("", end, start, arrowprops=style)


def main(path: Path) -> None:
    """Write the picture."""
    draw().savefig(path, dpi=250, metadata={"Software": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "docs" / "architecture.png")
