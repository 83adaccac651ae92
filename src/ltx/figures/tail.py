"""How good the best of ever more random tickets is, at several widths: short or long tails, and the verdict."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from ltx.analysis.intervals import Interval, interval
from ltx.analysis.returns import expected_best
from ltx.analysis.shape import TOP, references, shape
from ltx.figures.arms import Arm, Store
from ltx.figures.claims import Claim, decide, stated
from ltx.figures.random_tickets import points, sampled, split
from ltx.report import style
from ltx.report.layout import legend_above
from ltx.report.letters import SMALL
from ltx.report.style import BAND, number_axis, page
from ltx.report.tail_points import Init, Point
from ltx.report.tails import of_point

DEPTHS = np.arange(0.5, 12.01, 0.5)  # minus log10 of the share of masks
LAWS = {"gaussian": ("Gaussian", "--"), "exponential": ("exponential", "-"), "squared": ("squared Gaussian", ":")}


def arms(fixed: dict[str, Any]) -> list[Arm]:
    """Return the arms of every width: one that samples, and for each init one that splits."""
    found = [sampled(fixed, width) for width in fixed["widths"]]
    return found + [arm for width in fixed["widths"] for arm in split(fixed, width, fixed["density"])]


def rows(store: Store) -> pd.DataFrame:
    """Return a row per number: its `part`, the width, the init, x and y, and low, high and n of means.

    Parts: `reached`, the nats gained (y) by one mask in 10^x; `best`, the expected best of x masks; `s`, an init's
    shape exponent, with those of known laws in columns of their own; `signal`, the same in the signal's unit; `xi` and
    its nulls; `word`, the verdict, in the column `word`.
    """
    table = [row for point in points(store).values() for row in of_width(point, store)]
    return pd.DataFrame(table)


def of_width(point: Point, store: Store) -> list[dict[str, Any]]:
    """Return the rows of one width."""
    classes = store.arms[0].spec.facts.classes
    own = {"width": point.width, "inits": len(point.inits)}
    found = [{**own, **row} for number, init in point.inits.items() for row in of_init(number, init, classes)]
    width = of_point(point, classes, None)
    if width.xi is not None:
        said = width.xi.sampled
        for name, null in (("null gaussian", said.gaussian), ("null squared", said.squared)):
            found.append({**own, "part": name, "y": null.xi, "low": null.low, "high": null.high})
        mean = said.xi
        excesses = {"x": width.xi.quantile, "excesses": width.xi.excesses}
        found.append({**own, "part": "xi", "y": mean.mean, "low": mean.low, "high": mean.high, **excesses})
    found.append({**own, "part": "word", "word": width.shape.word, "reason": width.shape.reason, "masks": width.masks})
    return found


def of_init(number: int, init: Init, classes: int) -> list[dict[str, Any]]:
    """Return the rows of one init at one width."""
    own, tens = {"init": number}, math.log(10)
    found: list[dict[str, Any]] = []
    for depth in DEPTHS:
        quality = init.quality_at(-depth * tens)
        found.append({**own, "part": "reached", "x": depth, "y": quality - init.nothing})
    draws = [int(n) for n in 10 ** np.arange(0, math.log10(len(init.qualities) / 10) + 1e-9, 0.5)]
    for n, best in zip(draws, expected_best(init.qualities, draws), strict=True):
        found.append({**own, "part": "best", "x": n, "y": best - init.nothing})
    curve = init.split
    if curve is not None:
        ends = math.log(TOP), max(-DEPTHS[-1] * tens, curve.deepest)
        laws = vars(references(*ends, init.atom))
        found.append({**own, "part": "s", "y": shape(curve, *ends), **laws})
        found.append({**own, "part": "signal", "y": shape(curve.signal(classes), *ends), **laws})
    return found


def draw(table: pd.DataFrame) -> Figure:
    """Draw what one mask in ever more reaches, and below, the shape of each width's tail and xi of sampled masks."""
    figure, ((reached,), (best,), (shapes,), (tails,)) = page(4, 1.75, height_ratios=(3, 2, 2.4, 2))
    widths = sorted(table["width"].unique())
    curves = table[table["part"] == "s"].dropna(subset="y")
    for axes, part in ((reached, "reached"), (best, "best")):
        for index, (width, group) in enumerate(table[table["part"] == part].groupby("width")):
            if part == "reached":  # an init whose splitting died out would end the curve of all
                known = group["init"].isin(curves.loc[curves["width"] == width, "init"])
                group = group[known] if known.any() else group
            means = [(float(x), interval(own["y"].dropna().tolist(), 0)) for x, own in group.groupby("x")]
            whole = [(x, y) for x, y in means if y.n == group["init"].nunique()]
            shift = style.beside(index, len(widths), len(whole))
            style.curve(axes, [x for x, _ in whole], [y for _, y in whole], f"width {width:g}", index, shift)
        axes.set_ylim(0)
    reached.set_xlim(0, DEPTHS[-1] + 0.4)
    reached.xaxis.set_major_locator(FixedLocator([*range(0, 13, 2)]))
    reached.xaxis.set_major_formatter(lambda x, _: f"$10^{{{x:.0f}}}$")
    reached.set_xlabel("one random mask in so many ...")
    reached.set_ylabel("... gains so many nats")
    reached.set_title("straight: exponential tail; bent up: longer; bent down: shorter", fontsize=SMALL, pad=3)
    number_axis(best, table.loc[table["part"] == "best", "x"], "random masks drawn")
    best.set_ylabel("nats gained by\ntheir best, expected")
    draw_shapes(shapes, table, widths)
    draw_xi(tails, table, widths)
    for axes in (shapes, tails):
        number_axis(axes, widths, "width")
        axes.set_xlim(widths[0] / 1.4, widths[-1] * 1.4)  # room for a word around the outermost
    return figure


def draw_shapes(axes: Axes, table: pd.DataFrame, widths: list[float]) -> None:
    """Draw the shape exponents in both units, those of known laws, and each width's verdict."""
    handles = []
    for index, (part, label) in enumerate((("s", "of the nats gained"), ("signal", "of their square root"))):
        own = table[table["part"] == part]
        means = [interval(own.loc[own["width"] == width, "y"].dropna().tolist()) for width in widths]
        handles.append(style.curve(axes, widths, means, label, index, style.beside(index, 2, len(widths))))
    for law, (name, line) in LAWS.items():
        handles.append(axes.axhline(table[law].mean(), label=name, **style.dashed(line)))
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
    words = table[table["part"] == "word"].set_index("width")["word"]
    for width in widths:
        text = str(words[width]).replace(" ", "\n")
        axes.text(width, 0.98, text, transform=axes.get_xaxis_transform(), ha="center", va="top", fontsize=SMALL)
    axes.set_ylabel("shape s of the tail")
    legend_above(axes, handles)


def draw_xi(axes: Axes, table: pd.DataFrame, widths: list[float]) -> None:
    """Draw xi of the sampled masks over what samples of a Gaussian and of its square show."""
    handles: list[Any] = []
    for name, colour in (("squared", BAND), ("gaussian", "#CFE2F3")):
        null = table[table["part"] == f"null {name}"]
        low, high = null["low"].mean(), null["high"].mean()
        handles.append(axes.axhspan(low, high, label=LAWS[name][0], color=colour, lw=0, zorder=0.5))
    xi = table[table["part"] == "xi"].set_index("width")
    known = [width for width in widths if width in xi.index]
    means = [Interval(xi["y"][width], xi["low"][width], xi["high"][width], 0) for width in known]
    if known:
        over = f"random masks, {xi['excesses'].min():,.0f} excesses over quantile {xi['x'].min():g}"
        handles.insert(0, style.curve(axes, known, means, over, 0))
    axes.set_ylabel("xi")
    legend_above(axes, handles)


def claims(table: pd.DataFrame, fixed: dict[str, Any]) -> dict[str, Claim]:
    """Decide how s differs from that of known laws, an init's number being the mean over widths, and with the width."""
    said = stated(fixed)
    own, signal = (table[table["part"] == part] for part in ("s", "signal"))

    def over_widths(more: pd.Series, table: pd.DataFrame) -> list[float]:
        return more.groupby(table["init"]).mean().dropna().tolist()

    by_width = own.pivot(index="init", columns="width", values="y").dropna()
    ends = by_width[by_width.columns.min()] - by_width[by_width.columns.max()]
    return {
        "shorter": decide(said["shorter"], over_widths(own["y"] - own["exponential"], own)),
        "longer": decide(said["longer"], over_widths(own["squared"] - own["y"], own)),
        "signal": decide(said["signal"], over_widths(signal["gaussian"] - signal["y"], signal)),
        "widening": decide(said["widening"], ends.tolist()),
    }
