"""What a picture must not have: text that is cut off, text over text, a legend over data, a run's key."""

from __future__ import annotations

import re
from itertools import combinations

import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from ltx.report.style import WIDTH


def texts(figure: Figure) -> list[tuple[str, Bbox, float]]:
    """Return every text that is drawn, with its place in dots and its size in points."""
    drawn: list[Text] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", lambda text, renderer: drawn.append(text))
        figure.draw_without_rendering()
    shown = [text for text in dict.fromkeys(drawn) if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(), float(text.get_fontsize())) for text in shown]


def assert_readable(figure: Figure) -> None:
    """Hold that a picture can be read at the width of a column, and that nothing in it is cut off or covered."""
    found = texts(figure)
    assert figure.get_figwidth() == pytest.approx(WIDTH) == pytest.approx(9 / 2.54)
    for text, box, size in found:
        assert size >= 6, text
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, f"{text} is cut"
        assert not re.search(r"-w[\d.]+-[0-9a-f]{8}|\bnan\b", text), text
    for (one, box, _), (other, place, _) in combinations(found, 2):
        overlap = Bbox.intersection(box, place)
        assert overlap is None or min(overlap.width, overlap.height) < 2, f"'{one}' lies over '{other}'"
    for legend in [*figure.legends, *(axes.get_legend() for axes in figure.axes)]:
        for axes in figure.axes if legend else ():
            overlap = Bbox.intersection(legend.get_window_extent(), axes.get_window_extent())
            assert overlap is None or min(overlap.width, overlap.height) < 2, "a legend hides data"


def bar_ends(figure: Figure, panel: int) -> list[tuple[float, float]]:
    """Return the low and the high end of every vertical interval of a panel."""
    bars = [bars for bars in figure.axes[panel].collections if isinstance(bars, LineCollection)]
    return [(segment[0][1], segment[-1][1]) for bar in bars for segment in bar.get_segments()]
