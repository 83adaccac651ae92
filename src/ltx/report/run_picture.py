"""The picture of a run: test accuracy above, early stops below, against density."""

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
    page,
    reference,
    spread,
    within,
)
from ltx.report.wording import seeds
from ltx.store.rows import Row, by_level

HEIGHT = 1.75  # inches of each panel


def draw(rows: Sequence[Row], title: str, training: str, score: tuple[str, float]) -> Figure:
    """Draw a run's rows: both accuracies with the dense level as reference, and the step of each early stop.

    score: what the columns call accuracy, and the least it can be.
    """
    figure, panels = page(2, HEIGHT, sharex=True)
    groups = list(by_level(rows).values())
    accuracies(panels[0, 0], groups, *score)
    censored = early_stops(panels[1, 0], groups)
    density_axis(panels[1, 0], [100 * group[0].density for group in groups])
    caption = [seeds(len(group) for group in groups)]
    if censored:
        caption.append("Censored: the validation loss still fell at the last step; such a level has no mean.")
    return complete(figure, title, " ".join([*caption, training]))


def accuracies(axes: Axes, groups: Sequence[Sequence[Row]], name: str, least: float) -> None:
    """Draw the accuracy of the last step and of the early stop at every level, and the dense level across."""
    densities = [100 * group[0].density for group in groups]
    handles: list[Any] = []
    for index, (column, label) in enumerate(
        (("test_accuracy", "last step"), ("early_stop_test_accuracy", "early stop"))
    ):
        ys = [interval([getattr(row, column) for row in group], least, 1) for group in groups]
        handles.append(curve(axes, densities, ys, label, index, spread(index, 2, 2.4)))
        if index == 0 and densities[0] == 100 and len(groups) > 1:
            handles.append(reference(axes, ys[0], "dense, last step"))
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
