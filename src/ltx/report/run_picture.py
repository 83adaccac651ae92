"""The picture of a run: test accuracy above, early stops below, against density or what else its levels differ in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from ltx.analysis.intervals import interval
from ltx.report.layout import complete, legend_above
from ltx.report.style import (
    GREY,
    bars,
    curve,
    density_axis,
    dodged,
    look,
    number_axis,
    page,
    reference,
    spread,
    within,
)
from ltx.report.wording import seeds
from ltx.store.rows import Row, by_level

HEIGHT = 1.75  # inches of each panel
LAST, STOPPED = ("test_accuracy", "last step"), ("early_stop_test_accuracy", "early stop")
UNTRAINED = ("test_accuracy", "not trained")


def draw(rows: Sequence[Row], title: str, training: str, score: tuple[str, float]) -> Figure:
    """Draw a run's rows: both accuracies with the dense level as reference, and the step of each early stop.

    What was not trained has one accuracy and no early stop. Levels of one density stand side by side by their numbers.
    score: what the columns call accuracy, and the least it can be.
    """
    groups, trained = list(by_level(rows).values()), any(row.step for row in rows)
    figure, panels = page(2 if trained else 1, HEIGHT, sharex=True)
    places = [100 * group[0].density for group in groups]
    if not trained and len(groups) > 1 and len(set(places)) == 1:
        places = [group[0].level for group in groups]
        number_axis(panels[0, 0], places, "level", even=True)
    else:
        density_axis(panels[-1, 0], places)
    accuracies(panels[0, 0], groups, places, [LAST, STOPPED] if trained else [UNTRAINED], *score)
    censored = trained and early_stops(panels[1, 0], groups)
    caption = [seeds(len(group) for group in groups)]
    if censored:
        caption.append("Censored: the validation loss still fell at the last step; such a level has no mean.")
    return complete(figure, title, " ".join([*caption, training]))


def accuracies(
    axes: Axes,
    groups: Sequence[Sequence[Row]],
    places: Sequence[float],
    curves: Sequence[tuple[str, str]],
    name: str,
    least: float,
) -> None:
    """Draw one or two accuracies of every level at its place, each a column with its label, and a dense one across."""
    handles: list[Any] = []
    for index, (column, label) in enumerate(curves):
        ys = [interval([getattr(row, column) for row in group], least, 1) for group in groups]
        handles.append(curve(axes, places, ys, label, index, spread(index, len(curves), 2.4)))
        if index == 0 and groups[0][0].density == 1 and len(groups) > 1:
            handles.append(reference(axes, ys[0], f"dense, {label}"))
    within(axes, least, 1)
    axes.set_ylabel(name)
    legend_above(axes, handles)


def early_stops(axes: Axes, groups: Sequence[Sequence[Row]]) -> bool:
    """Draw each seed's early stop, and the mean of levels where all seeds have one; tell whether some have none."""
    last = max(row.step for group in groups for row in group)
    several = any(len(group) > 1 for group in groups)
    handles: list[Any] = []
    points = [
        (100 * row.density, row.early_stop_step) for group in groups for row in group if row.early_stop_step is not None
    ]
    if points:
        at, steps = [density for density, _ in points], [step for _, step in points]
        dots: dict[str, Any] = {"color": GREY, "marker": ".", "ms": 4.5, "mec": "none", "alpha": 0.6, "ls": "none"}
        shown = {**dots, "transform": dodged(axes, -1.2)} if several else {**look(1), "ls": "none"}
        handles += axes.plot(at, steps, label="one seed" if several else "the seed", **shown)
    whole = [group for group in groups if all(row.early_stop_step is not None for row in group)]
    if whole and several:
        moved = dodged(axes, 1.2)
        at = [100 * group[0].density for group in whole]
        means = [interval([row.early_stop_step or 0 for row in group], 0, last) for group in whole]
        handles += axes.plot(at, [mean.mean for mean in means], label="mean of seeds", transform=moved, **look(1))
        bars(axes, at, means, look(1)["color"], moved)
    censored = [100 * group[0].density for group in groups if group not in whole]
    if censored:
        hollow: dict[str, Any] = {"mfc": "white", "color": "black", "mew": 0.6, "ls": "none"}
        handles += axes.plot(censored, [last] * len(censored), "^", ms=3.5, label="a censored seed", **hollow)
    axes.set_ylim(0, 1.08 * max(last, 1))
    axes.set_ylabel("early stop (step)")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    legend_above(axes, handles)
    return bool(censored)
