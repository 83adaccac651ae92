"""How much the tickets of one initialisation have in common, against chance and against a search run twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ltx.analysis.identity import IDENTITY, WEIGHTS
from ltx.analysis.intervals import interval
from ltx.analysis.nulls import degree_matched, layer_matched, size_matched
from ltx.analysis.overlap import against, overlap, together
from ltx.figures.arms import Arm, Store
from ltx.figures.claims import Claim, decide, stated
from ltx.figures.networks import known, one_thread
from ltx.identity.measure import Known, alike, orders
from ltx.report.style import beside, number_axis, page, within
from ltx.report.style import curve as style_curve
from ltx.streams import generator

WOUND_BACK, AGAIN, UNRELATED = "wound back", " again", " of another init"
DRAWS = 40  # masks of given degrees for each pair
# The pairs of masks, the first of them those whose degrees and networks are compared too.
SAME = [("IMP", "edge-popup"), ("IMP", "biprop"), (WOUND_BACK, "edge-popup"), ("edge-popup", "biprop")]
OTHERS = [("IMP", WOUND_BACK), *((name, name + AGAIN) for name in ("IMP", "edge-popup", "biprop"))]
APART = [("IMP", "IMP" + UNRELATED), ("IMP", "edge-popup" + UNRELATED)]


def arms(fixed: dict[str, Any]) -> list[Arm]:
    """Return for every width an arm per search, each with a second run of it, and the network wound back."""
    found = []
    for width in fixed["widths"]:
        kinds = {WOUND_BACK: fixed[WOUND_BACK]}
        for search, words in fixed["searches"].items():
            kinds |= {search: words, search + AGAIN: [*words, *fixed["again"]]}
        for kind, words in kinds.items():
            facts: dict[str, Any] = {"width": float(width), "search": kind}
            found.append(Arm(f"{kind} {width}", [*words, f"width={width}"], facts))
    return found


def rows(store: Store) -> pd.DataFrame:
    """Return a row per width, seed and pair of tickets: what they share, what chance shares, and how alike they are.

    The other init of a seed is that of the next seed, and that of the last seed the first one's.
    """
    found = []
    with one_thread():
        for width in dict.fromkeys(float(done.arm.facts["width"]) for done in store.arms):
            arms = {str(d.arm.facts["search"]): d for d in store.arms if d.arm.facts["width"] == width}
            seeds = arms["IMP"].spec.seeds
            tickets = {(name, seed): known(done, seed) for name, done in arms.items() for seed in done.spec.seeds}
            for seed, stranger in zip(seeds, [*seeds[1:], seeds[0]], strict=True):
                own = {name: tickets[name, seed] for name in arms}
                own |= {name + UNRELATED: tickets[name, stranger] for name in arms}
                for one, other in (*SAME, *OTHERS, *APART):
                    facts = {"width": width, "seed": seed, "one": one, "other": other}
                    found.append(
                        facts | compared(own[one], own[other], (one, other) in SAME, (one, other) not in OTHERS)
                    )
    return pd.DataFrame(found)


def compared(one: Known, other: Known, degrees: bool, matched: bool) -> dict[str, float]:
    """Return what two tickets share, what nulls say of it, and how alike the networks are before and after matching."""
    masks = one.ticket.mask, other.ticket.mask
    whole = overlap(*masks)
    laws = {"layer": layer_matched(*masks), "size": size_matched(*masks, {n: w.abs() for n, w in one.init.items()})}
    if degrees:
        draws = generator("figure", one.seed, "same-ticket", one.run, other.run)
        laws["degree"] = degree_matched(*masks, draws, DRAWS)
    found = {"iou": whole.iou}
    for name, law in laws.items():
        null = against(whole, together(law.values()))
        found |= {f"{name}_mean": null.mean, f"{name}_z": null.z, f"{name}_corrected": null.corrected}
    if matched:
        chosen = orders(one, other)
        plain, best = (alike(one, other, chosen[name]) for name in (IDENTITY, WEIGHTS))
        found |= {"cosine": plain.cosine, "distance": plain.distance}
        found |= {
            "matched_iou": best.iou,
            "matched_cosine": best.cosine,
            "matched_distance": best.distance,
            "fixed": best.fixed,
        }
    return found


def draw(table: pd.DataFrame) -> Figure:
    """Draw what tickets share and what chance would, the excess over it, and what matching units makes of it."""
    figure, panels = page(2, 1.7, 2)
    (shared, again), (excess, matched) = panels
    rows = {(str(one), str(other)): group for (one, other), group in table.groupby(["one", "other"])}  # type: ignore[misc]
    same = rows["IMP", "edge-popup"]
    popup = rows["edge-popup", "edge-popup" + AGAIN]
    chance = [(same, "layer_mean", "chance by layer"), (same, "size_mean", "chance by layer and |w0|")]
    lines(
        shared,
        [(same, "iou", "IMP and edge-popup"), (popup, "iou", "edge-popup twice"), *chance],
        {0: 0, 1: 1, 2: 5, 3: 6},
    )
    twice = [(rows[name, name + AGAIN], "iou", f"{name} twice") for name in ("IMP", "edge-popup", "biprop")]
    back = (rows["IMP", WOUND_BACK], "iou", "IMP and wound back")
    lines(again, [twice[0], back, *twice[1:]], {0: 3, 1: 4, 2: 1, 3: 2})
    pairs = [(rows[pair], "size_corrected", f"{pair[0]} and {pair[1]}") for pair in SAME]
    lines(excess, pairs, {0: 0, 1: 8, 2: 9, 3: 10}, least=-1)
    other = rows["IMP", "edge-popup" + UNRELATED]
    own = [(same, "iou", "IMP and edge-popup"), (same, "matched_iou", "the same, matched")]
    lines(matched, [*own, (other, "matched_iou", "of two inits, matched")], {0: 0, 1: 11, 2: 12})
    for axes in panels.flat:
        number_axis(axes, table["width"], "width")
        axes.set_ylabel("excess over chance" if axes is excess else "IoU of masks")
        within(axes, -1 if axes is excess else 0, 1)
    return figure


def lines(
    axes: Axes, of: Sequence[tuple[pd.DataFrame, str, str]], looks: dict[int, int] | None = None, least: float = 0
) -> None:
    """Draw means over seeds against width, each with the look of a number, by default its place."""
    for index, (rows, column, label) in enumerate(of):
        groups = [(float(width), interval(group[column].tolist(), least, 1)) for width, group in rows.groupby("width")]
        look = index if looks is None else looks[index]
        shift = beside(index, len(of), len(groups), 2)
        style_curve(axes, [width for width, _ in groups], [found for _, found in groups], label, look, shift)


def claims(table: pd.DataFrame, fixed: dict[str, Any]) -> dict[str, Claim]:
    """Decide what tickets share beyond chance, beside what a search shares with itself and what matching adds."""

    def of(one: str, other: str, column: str) -> pd.DataFrame:
        pair = table[(table["one"] == one) & (table["other"] == other)]
        return pair.pivot(index="seed", columns="width", values=column)

    def excess(one: str, other: str) -> pd.DataFrame:
        return of(one, other, "size_corrected")

    key = ("IMP", "edge-popup")
    own, shared = excess(*key), of(*key, "iou")
    widths = own.columns
    twice = {name: of(name, name + AGAIN, "iou") for name in ("IMP", "edge-popup")}
    strangers = of("IMP", "IMP" + UNRELATED, "matched_iou") - of("IMP", "IMP" + UNRELATED, "layer_mean")
    found: dict[str, pd.Series] = {
        "width": own[widths.min()] - own[widths.max()],
        "degree": (shared - of(*key, "degree_mean")).mean(axis=1),
        "wound back": excess(WOUND_BACK, "edge-popup").mean(axis=1),
        "biprop": excess("IMP", "biprop").mean(axis=1),
        "searches": excess("edge-popup", "biprop").mean(axis=1),
        "ceiling": (shared - twice["edge-popup"]).mean(axis=1),
        "IMP twice": twice["IMP"].mean(axis=1),
        "edge-popup twice": twice["edge-popup"].mean(axis=1),
        "matched chance": strangers.mean(axis=1),
        "matched": (of(*key, "matched_iou") - of("IMP", "edge-popup" + UNRELATED, "matched_iou")).mean(axis=1),
        **{f"size {width:g}": own[width] for width in widths},
    }
    none = pd.Series(dtype=float)  # of a width that was not run
    return {name: decide(said, found.get(name, none).dropna().tolist()) for name, said in stated(fixed).items()}
