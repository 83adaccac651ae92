"""How much the tickets of one initialisation have in common, against chance and against a search run twice."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ltx.analysis.identity import IDENTITY, WEIGHTS
from ltx.analysis.nulls import degree_matched, layer_matched, size_matched
from ltx.analysis.overlap import against, overlap, together
from ltx.figures.arms import Arm, Finished, Store
from ltx.figures.networks import one_thread, opened
from ltx.identity import Known, alike, orders
from ltx.streams import generator

WOUND_BACK, AGAIN, UNRELATED = "wound back", " again", " of another init"
DRAWS = 40  # masks of given degrees for each pair
# The pairs of masks, the first of them those whose degrees and networks are compared too.
SAME = [("IMP", "edge-popup"), ("IMP", "biprop"), (WOUND_BACK, "edge-popup"), ("edge-popup", "biprop")]
OTHERS = [("IMP", WOUND_BACK), *((name, name + AGAIN) for name in ("IMP", "edge-popup", "biprop"))]
APART = [
    (name, other + UNRELATED) for name, other in (("IMP", "IMP"), ("IMP", "edge-popup"), ("edge-popup", "edge-popup"))
]


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
            known = {(name, seed): read(done, seed) for name, done in arms.items() for seed in done.spec.seeds}
            for seed, stranger in zip(seeds, [*seeds[1:], seeds[0]], strict=True):
                own = {name: known[name, seed] for name in arms}
                own |= {name + UNRELATED: known[name, stranger] for name in arms}
                for one, other in (*SAME, *OTHERS, *APART):
                    facts = {"width": width, "seed": seed, "one": one, "other": other}
                    found.append(
                        facts | compared(own[one], own[other], (one, other) in SAME, (one, other) not in OTHERS)
                    )
    return pd.DataFrame(found)


def read(done: Finished, seed: int) -> Known:
    """Return a ticket at the last level that was asked for."""
    return Known.of(opened(done.spec.directory), seed, done.spec.method.last_level)


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
