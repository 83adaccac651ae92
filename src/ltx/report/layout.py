"""What stands around the panels of a picture: its title, its legend, its caption, and room for each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ltx.report.letters import LEADING, SMALL, TITLE, balanced, measured, wrapped
from ltx.report.style import EDGE, GREY, WIDTH


def legend(where: Axes | Figure, handles: Sequence[Any], less: float = 0, **options: Any) -> Any:
    """Put a legend in as many columns as fit above a panel, or above all panels, where it hides nothing.

    less: points of the figure's width that it may not use.
    """
    room = 72 * (WIDTH - 2 * EDGE)
    labels = ["\n".join(wrapped(str(handle.get_label()), room - 30, SMALL)) for handle in handles]
    widths = [max(measured(line, SMALL) for line in label.split("\n")) + 2.8 * SMALL for label in labels]

    def fits(n: int) -> bool:
        rows, longer = divmod(len(widths), n)  # the first columns are longer by one
        ends = list(itertools.accumulate(rows + (i < longer) for i in range(n)))
        columns = [max(widths[begin:end]) for begin, end in itertools.pairwise([0, *ends])]
        return sum(columns) + 1.2 * SMALL * len(columns) <= room - less

    columns = next((n for n in range(len(labels), 0, -1) if fits(n)), 1)
    return where.legend(
        handles,
        labels,
        ncols=columns,
        fontsize=SMALL,
        frameon=False,
        borderpad=0.2,
        borderaxespad=0,
        handlelength=2.2,
        handletextpad=0.5,
        columnspacing=1.2,
        labelspacing=0.25,
        **options,
    )


def legend_above(axes: Axes, handles: Sequence[Any]) -> None:
    """Put a panel's legend between it and what is above it."""
    legend(axes, handles, less=35, loc="lower left", bbox_to_anchor=(0, 1.01))


def label_ends(axes: Axes, lines: Sequence[Line2D], inches: float) -> bool:
    """Write each line's name beside its right end if no two come close; tell whether that was done.

    inches: about how high the panel is.
    """
    low, high = axes.get_ylim()
    last = [([*line.get_xdata()][-1], [*line.get_ydata()][-1]) for line in lines]  # type: ignore[misc]
    ends = {x for x, _ in last}
    heights = sorted(inches * 72 * (y - low) / (high - low) for _, y in last)
    apart = all(after - before >= 1.15 * SMALL for before, after in itertools.pairwise(heights))
    widest = max(measured(str(line.get_label()), SMALL) for line in lines)
    if len(ends) > 1 or not apart or widest > 0.22 * 72 * WIDTH:
        return False
    for line, end in zip(lines, last, strict=True):
        axes.annotate(
            str(line.get_label()),
            end,
            (8, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
            annotation_clip=False,
            parse_math=False,
        )
        line.set_label("_named at its end")
    return True


@dataclass(frozen=True)
class Paragraph:
    """A text below a picture; `strong` in bold, `hanging` with all lines but the first moved in."""

    text: str
    strong: bool = False
    hanging: bool = False


def unnamed(figure: Figure) -> list[Any]:
    """List what a legend above all panels should name: what has a label, but neither an end label nor a legend."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        if axes.get_legend() is None:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                found.setdefault(label, handle)
    return list(found.values())


def complete(figure: Figure, title: str, caption: str, below: Sequence[Paragraph] = ()) -> Figure:
    """Put title and legend above a figure, caption and further paragraphs below, make room for them, and lay all out.

    The layout is found once here: with a layout engine left on, every file would find it anew.
    """
    width, height = figure.get_size_inches()
    room = 72 * (width - 2 * EDGE)
    heading = balanced(title, room, TITLE)
    texts = [Paragraph(caption), *below]
    blocks = [
        wrapped(p.text, room, SMALL, "bold" if p.strong else "normal", indent=8 if p.hanging else 0) for p in texts
    ]
    line = SMALL * LEADING / 72
    gap = 0.4 * line
    bottom = EDGE + sum(map(len, blocks)) * line + gap * (len(blocks) + bool(below))
    top = EDGE + len(heading) * TITLE * LEADING / 72 + 0.02
    names, shown, handles = 0.0, None, unnamed(figure)
    if handles:
        shown = legend(figure, handles, loc="upper center")
        shown.set_in_layout(False)
        names = shown.get_window_extent().height / figure.dpi + 0.02
    whole = height + top + bottom + names
    figure.set_size_inches(width, whole)
    if shown is not None:
        shown.set_bbox_to_anchor((0.5, 1 - top / whole), figure.transFigure)
    for i, words in enumerate(heading):
        y = 1 - (EDGE + i * TITLE * LEADING / 72) / whole
        figure.text(0.5, y, words, fontsize=TITLE, ha="center", va="top", parse_math=False)
    y = bottom - gap
    for i, (paragraph, lines) in enumerate(zip(texts, blocks, strict=True)):
        if i == 1:
            y -= 0.5 * gap
            figure.add_artist(Line2D([EDGE / width, 1 - EDGE / width], [y / whole] * 2, color=GREY, lw=0.4))
            y -= gap
        for j, words in enumerate(lines):
            x = (EDGE + (8 / 72 if paragraph.hanging and j else 0)) / width
            weight, colour = ("bold", "#A00000") if paragraph.strong else ("normal", "#000000")
            options: dict[str, Any] = {"weight": weight, "color": colour, "va": "top", "parse_math": False}
            figure.text(x, y / whole, words, fontsize=SMALL, **options)
            y -= line
        y -= gap
    rect = (0, bottom / whole, 1, height / whole)
    figure.set_layout_engine("constrained", rect=rect, w_pad=EDGE, h_pad=EDGE, wspace=0.03, hspace=0.03)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    figure.set_layout_engine("none")
    return figure
