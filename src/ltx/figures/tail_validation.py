"""Whether splitting counts rare masks right: against all masks, against direct sampling, and repeat against repeat."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ltx.analysis import tail
from ltx.analysis.intervals import interval
from ltx.analysis.repeats import all_masks
from ltx.analysis.returns import bits_needed
from ltx.config.spec import Spec
from ltx.figures.arms import Arm, Finished, Store
from ltx.figures.claims import Claim, decide, stated
from ltx.figures.random_tickets import level
from ltx.methods import ticket_sample
from ltx.methods.ticket_sample import FITTED, SCORED, examples_of
from ltx.report.letters import SMALL
from ltx.report.style import COLOURS, GREY, beside, curve, dashed, page
from ltx.runs.levels import examples

NAMES = {"exhaustive": "all masks counted", "digits": "digits", "mnist1d": "MNIST-1D"}
OURS = ("threshold", "log10_p", "log10_p_sd", "pilot_log10_p")
KNOWN = ("reference", "low", "high", "excess", "pareto", "xi", "xi_low", "xi_high")
NORMAL = 1.96  # standard deviations on each side that hold 95 %


def arms(fixed: dict[str, Any]) -> list[Arm]:
    """Return an arm per network that is split, and one per network that is sampled directly."""
    found = []
    for network, own in fixed["networks"].items():
        for kind in ("split", "direct"):
            if kind in own:
                words = [*fixed[kind], *own["words"], *own[kind]]
                facts = {"network": network, "kind": kind, "quantile": fixed["quantile"]}
                found.append(Arm(f"{network} {kind}", words, facts))
    return found


def rows(store: Store) -> pd.DataFrame:
    """Return a row per arm, seed and level; where masks were split, log10 P as it is known otherwise beside it.

    reference, low, high: log10 P(quality >= threshold) from all masks or from direct sampling, with its exact binomial
    interval there. excess: of the threshold over a high quantile of the direct sample, and pareto: the excess that is
    as rare by the generalised Pareto law fitted there, with its xi.
    """
    direct = {done.arm.facts["network"]: done for done in store.arms if done.arm.facts["kind"] == "direct"}
    found = []
    for done in store.arms:
        columns = [{"seed": row.seed, "level": row.level, **row.columns()} for row in done.rows]
        own = pd.DataFrame([{name: row.get(name) for name in ("seed", "level", *OURS)} for row in columns])
        own = own.astype(dict.fromkeys(OURS, float))
        facts = done.arm.facts
        own.insert(0, "network", facts["network"])
        own.insert(1, "kind", facts["kind"])
        own[[*KNOWN]] = math.nan
        if facts["kind"] == "split":
            sampled = direct.get(facts["network"])
            values = known(done.spec, sampled)
            for place, threshold in own["threshold"].dropna().items():
                own.loc[place, ["reference", "low", "high"]] = log10_share(values, threshold, sampled is not None)
            if sampled is not None:
                add_pareto(own, values, float(facts["quantile"]))
        found.append(own)
    return pd.concat(found, ignore_index=True)


def known(spec: Spec, direct: Finished | None) -> np.ndarray:
    """Return the qualities of the masks that were sampled directly, or of all masks of the network."""
    if direct is not None:
        levels = (level(direct, row.seed, row.level) for row in direct.rows)
        return np.concatenate([tensors["sample/quality"].numpy() for tensors in levels])
    network = spec.network(streams=spec.streams(spec.seeds[0]))
    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    method = spec.method
    assert isinstance(method, ticket_sample.Method)
    kept = method.kept_of_all(weights, method.prunable([*weights]))
    seen = examples_of(examples(spec.data, "val", FITTED), examples(spec.data, "train", SCORED))
    return all_masks(weights, kept, seen).quality


def log10_share(values: np.ndarray, threshold: float, sampled: bool) -> tuple[float, float, float]:
    """Return log10 of the share that reaches a threshold and its interval; of all masks the share is the truth."""
    (bits,) = bits_needed(values, [threshold])
    logs = [-number * math.log10(2) for number in (bits.bits, bits.high, bits.low)]
    return (logs[0], logs[1], logs[2]) if sampled else (logs[0],) * 3


def add_pareto(own: pd.DataFrame, values: np.ndarray, quantile: float) -> None:
    """Add what the generalised Pareto law over a high quantile says of the thresholds above it."""
    fit = tail.fit(values, quantile)
    own[["xi", "xi_low", "xi_high"]] = fit.xi, fit.low, fit.high
    above = (own["threshold"] > fit.threshold) & np.isfinite(own["reference"])
    log_survival = own.loc[above, "reference"] * math.log(10) - math.log(fit.n / len(values))
    own.loc[above, "excess"] = own.loc[above, "threshold"] - fit.threshold
    scaled = -log_survival if fit.xi == 0 else np.expm1(-fit.xi * log_survival) / fit.xi
    own.loc[above, "pareto"] = fit.scale * scaled


def split(table: pd.DataFrame, network: str) -> pd.DataFrame:
    """Return the levels of a network that was split."""
    return table[(table["kind"] == "split") & (table["network"] == network)]


def draw(table: pd.DataFrame) -> Figure:
    """Draw ratios to what is known from all masks and from samples; log10 P over quality; and quantiles by the law."""
    figure, ((exact, sampled), (repeats, law)) = page(2, 1.75, 2)
    ratio(exact, split(table, "exhaustive"), ["log10_p", "pilot_log10_p"], ["counted", "pilot"], 0, 2)
    for index, network in enumerate(("digits", "mnist1d")):
        ratio(sampled, split(table, network), ["log10_p"], [f"counted, {NAMES[network]}"], 3 * index, 2)
    for axes, networks, heading in (
        (exact, ["exhaustive"], "against all masks"),
        (sampled, ["digits", "mnist1d"], "against direct sampling"),
    ):
        axes.axhline(1, **dashed(":"))
        # matplotlib does not look at marks that stand beside their place, so that the axis is told where they are.
        shown = pd.concat([split(table, network)["reference"] for network in networks])
        axes.set_xlim(0.2, shown[np.isfinite(shown)].min() - 0.3)
        titled(axes, "log10 of P, known otherwise", "estimate of P / known P", heading)
    own = split(table, "digits")
    for index, (_, repeat) in enumerate(own.groupby("seed")):
        label = "splitting, a line per repeat" if index == 0 else f"_{index}"
        repeats.plot(repeat["threshold"], repeat["log10_p"], color=COLOURS[0], lw=0.5, label=label)
    drawn = own[np.isfinite(own["reference"])].sort_values("threshold")
    repeats.plot(drawn["threshold"], drawn["reference"], color=COLOURS[6], lw=1.4, label="direct sampling", zorder=3)
    titled(repeats, "quality q (nats)", "log10 of P(quality ≥ q)", f"digits, {own['seed'].nunique()} repeats")
    for index, network in enumerate(("digits", "mnist1d")):
        own = split(table, network).dropna(subset=["pareto"])
        label = f"{NAMES[network]}: ξ = {own['xi'].mean():.2f}" if len(own) else f"{NAMES[network]}: none so high"
        law.plot(
            own["pareto"], own["excess"], ls="none", marker="o^"[index], ms=2, color=COLOURS[3 * index], label=label
        )
    most = max([*law.get_xlim(), *law.get_ylim()])
    law.plot([0, most], [0, most], color=GREY, lw=0.8, zorder=1.5, label="_equal")
    titled(law, "excess by the law (nats)", "excess observed (nats)", "the highest 1 %: Pareto law")
    return figure


def ratio(axes: Axes, own: pd.DataFrame, columns: list[str], labels: list[str], first: int, of: int) -> None:
    """Draw the mean over repeats of the estimate of P divided by the known one, level by level."""
    own = own[np.isfinite(own["reference"])]
    for index, (column, label) in enumerate(zip(columns, labels, strict=True)):
        share = 10 ** (own[column].fillna(-math.inf) - own["reference"])
        groups = [(own.loc[part.index, "reference"].mean(), part.tolist()) for _, part in share.groupby(own["level"])]
        xs, means = [x for x, _ in groups], [interval(values, 0) for _, values in groups]
        curve(axes, xs, means, label, first + index, beside(index, of, len(xs), 2))


def titled(axes: Axes, across: str, up: str, heading: str) -> None:
    """Name both axes of a panel, and the panel."""
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_title(heading, fontsize=SMALL, pad=3)


def claims(table: pd.DataFrame, fixed: dict[str, Any]) -> dict[str, Claim]:
    """Decide whether intervals of single repeats hold what is known, and whether repeats agree deep in the tail."""
    said = stated(fixed)
    held = {network: shares_held(split(table, network), fixed["least"]) for network in fixed["networks"]}
    return {
        **{network: decide(said[network], shares) for network, shares in held.items()},
        "repeats": decide(
            said["repeats"], [0.05 - off for off in deviations(split(table, "digits"), fixed["deepest"])]
        ),
    }


def shares_held(own: pd.DataFrame, least: float) -> list[float]:
    """Return, of each repeat, the share of levels whose interval holds log10 P as it is known, down to the least.

    What is known by sampling has an error of its own, which the interval takes in. A level at which the repeat has died
    out does not hold it.
    """
    own = own[own["reference"] >= least]
    sampling = (own["high"] - own["low"]) / (2 * NORMAL)
    held = (own["log10_p"] - own["reference"]).abs() <= NORMAL * np.hypot(own["log10_p_sd"], sampling)
    return held.astype(float).groupby(own["seed"]).mean().tolist()


def deviations(own: pd.DataFrame, deepest: float) -> list[float]:
    """Return by how much each repeat's log10 P is off the mean of all, as a share of it, where the mean is `deepest`.

    Repeats have thresholds of their own: between two of them log10 P is taken to be linear in the quality. Where some
    repeat does not reach so deep, they are compared at the highest quality that all reach.
    """
    alive = own.dropna(subset=["log10_p"])
    curves = [repeat.sort_values("threshold") for _, repeat in alive.groupby("seed")]
    if len(curves) < 2:
        return []
    qualities = np.linspace(
        max(one["threshold"].min() for one in curves), min(one["threshold"].max() for one in curves), 2000
    )
    logs = np.array([np.interp(qualities, one["threshold"], one["log10_p"]) for one in curves])
    mean = logs.mean(axis=0)
    place = int(np.abs(mean - deepest).argmin())
    return (np.abs(logs[:, place] - mean[place]) / abs(mean[place])).tolist()
