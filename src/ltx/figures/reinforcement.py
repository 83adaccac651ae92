"""What training does to a ticket and to the rest of the network, for tickets that were chosen without its end."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ltx.analysis.intervals import interval
from ltx.analysis.nulls import drawn
from ltx.analysis.reinforcement import gated, shapley, update_share
from ltx.figures.arms import Arm, Store
from ltx.figures.claims import Claim, decide, stated
from ltx.figures.drawing import curve
from ltx.figures.networks import Scorer, one_thread, ticket
from ltx.report.letters import SMALL
from ltx.report.style import beside, dashed, number_axis, page
from ltx.report.style import curve as style_curve
from ltx.streams import generator
from ltx.tensors import Tensors

BETAS = (0.0, 0.25, 0.5, 0.75, 1.0)
DRAWS = 3  # random tickets to each found one
BEGIN = 0


def arms(fixed: dict[str, Any]) -> list[Arm]:
    """Return for every width an arm per length of training, and one per search."""
    found = []
    for width in fixed["widths"]:
        facts = {"width": float(width)}
        for steps in fixed["steps"]:
            words = ["method=dense", f"width={width}", f"optim.steps={steps}"]
            found.append(Arm(f"dense {width} {steps}", words, {**facts, "search": "dense", "steps": steps}))
        for search, words in fixed["searches"].items():
            found.append(Arm(f"{search} {width}", [*words, f"width={width}"], {**facts, "search": search, "steps": 0}))
    return found


def rows(store: Store) -> pd.DataFrame:
    """Return a row per width, search, ticket, seed and step: what the ticket and the rest do at that step of training.

    `ticket` is `found`, or `random`: the mean over random masks of the same count in each layer and range of |w_0|.
    """
    tables = []
    searches = [done for done in store.arms if done.arm.facts["search"] != "dense"]
    with one_thread():
        for done in searches:
            width, search = done.arm.facts["width"], done.arm.facts["search"]
            for seed in done.spec.seeds:
                look = Look(store, float(width), seed)
                mask = ticket(done, seed).mask
                sizes = {name: look.path[BEGIN][name].abs() for name in mask}
                purpose = ("reinforcement", str(width), str(search))
                random = [drawn(mask, sizes, generator("figure", seed, *purpose, i)) for i in range(DRAWS)]
                for kind, masks in (("found", [mask]), ("random", random)):
                    seen = pd.DataFrame([row for one in masks for row in look.rows(one)])
                    table = seen.groupby("step", as_index=False).mean()
                    tables.append(table.assign(width=width, search=search, ticket=kind, seed=seed))
    return pd.concat(tables, ignore_index=True)


class Look:
    """The weights of one seed at every step that was kept of its training, and what masks make of them."""

    def __init__(self, store: Store, width: float, seed: int):
        facts = {"search": "dense", "width": width}
        runs = [done for done in store.arms if facts.items() <= done.arm.facts.items()]
        ends = {int(done.arm.facts["steps"]): ticket(done, seed) for done in runs}
        first = ends[min(ends)]
        self.path = {BEGIN: first.begin, **{steps: ends[steps].weights for steps in sorted(ends)}}
        self.score = Scorer(first.spec)

    def rows(self, mask: Tensors) -> list[dict[str, float]]:
        """Return a row per step: accuracies and losses of ticket, rest and whole, and what measures compare them."""
        return [self.row(step, weights, mask) for step, weights in self.path.items()]

    def row(self, step: int, weights: Tensors, mask: Tensors) -> dict[str, float]:
        """Return what one step gives; `gate` is the loss with the rest times beta."""
        rest = {name: ~keep for name, keep in mask.items()}
        gates = {beta: self.score(gated(weights, mask, beta)) for beta in BETAS}
        (loss, accuracy), (whole_loss, whole) = gates[0.0], gates[1.0]
        rest_loss, rest_accuracy = self.score(gated(weights, rest, 0.0))
        nothing = self.score({name: torch.zeros_like(w) if name in mask else w for name, w in weights.items()})[1]
        worth, others = shapley(whole, accuracy, rest_accuracy, nothing)
        of_ticket, of_rest = (norm(gated(weights, part, 0.0), mask) for part in (mask, rest))
        return {
            "step": step,
            "accuracy": accuracy,
            "loss": loss,
            "rest_accuracy": rest_accuracy,
            "rest_loss": rest_loss,
            "whole_accuracy": whole,
            "whole_loss": whole_loss,
            "worth": worth / (worth + others) if worth + others else 0.0,
            "update": update_share(mask, self.path[BEGIN], weights) if step else float("nan"),
            "norm": of_ticket,
            "rest_norm": of_rest,
            **{f"gate_{beta:g}": found[0] for beta, found in gates.items()},
        }


def norm(weights: Tensors, mask: Tensors) -> float:
    """Return the norm of the weights that a mask is about."""
    return math.sqrt(sum(float(weights[name].square().sum()) for name in mask))


def draw(table: pd.DataFrame) -> Figure:
    """Draw accuracy along training and the gate at the narrowest width, and what training changes at every width."""
    searches = list(dict.fromkeys(table["search"]))
    steps, widths = sorted(table["step"].unique()), sorted(table["width"].unique())
    figure, panels = page(3, 1.55, len(searches), sharey="row")
    for column, search in enumerate(searches):
        along, gate, change = panels[:, column]
        own = table[table["search"] == search]
        narrow = own[own["width"] == widths[0]].assign(place=lambda t: t["step"].map(steps.index))
        found, random = (narrow[narrow["ticket"] == kind] for kind in ("found", "random"))
        for index, (part, y, label) in enumerate(
            (
                (found, "accuracy", "ticket"),
                (random, "accuracy", "random counterparts"),
                (found, "rest_accuracy", "the rest"),
                (found, "whole_accuracy", "whole network"),
            )
        ):
            curve(along, part, "place", y, label, index, 4)
        along.set_xticks(range(len(steps)), [str(int(step)) for step in steps])
        along.set_xlim(-0.4, len(steps) - 0.6)
        along.set_xlabel("step of training")
        along.set_title(f"{search}'s ticket, width {widths[0]:g}", fontsize=SMALL, pad=3)
        gates(gate, found, steps)
        changes(change, own)
        number_axis(change, widths, "width")
    for axes, label in zip(panels[:, 0], ("test accuracy", "test loss", "accuracy gained"), strict=True):
        axes.set_ylabel(label)
    return figure


def gates(axes: Axes, found: pd.DataFrame, steps: list[int]) -> None:
    """Draw the loss against beta, before training and after it."""
    names = [f"gate_{beta:g}" for beta in BETAS]
    for index, (step, label) in enumerate(((steps[0], "untrained"), (steps[-1], "trained"))):
        at = found[found["step"] == step].melt("seed", names, "beta", "loss_at")
        at["beta"] = at["beta"].str.removeprefix("gate_").astype(float)
        curve(axes, at, "beta", "loss_at", label, index + 4, 2, most=math.inf, at=index)
    number_axis(axes, BETAS, "beta, the rest's factor")


def changes(axes: Axes, own: pd.DataFrame) -> None:
    """Draw by how much the accuracy of a ticket and of its random counterparts changes through training."""
    for index, kind in enumerate(("found", "random")):
        gained = change(own[own["ticket"] == kind], "accuracy")
        values = [interval(gained[width].tolist(), -1, 1) for width in gained]
        label = "ticket" if kind == "found" else "random counterparts"
        style_curve(axes, list(gained), values, label, index, beside(index, 2, len(values), 2))
    axes.axhline(0, **dashed(":"))


def change(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return what a column gains from the first step to the last, a column per width and a row per seed."""
    by_step = rows.pivot_table(index="seed", columns=["step", "width"], values=column)
    steps = rows["step"].unique()
    return by_step[max(steps)] - by_step[min(steps)]


def claims(table: pd.DataFrame, fixed: dict[str, Any]) -> dict[str, Claim]:
    """Decide what training does to tickets and to others, by each of several definitions."""
    last = table[table["step"] == table["step"].max()]

    def of(search: str, kind: str) -> pd.DataFrame:
        return table[(table["search"] == search) & (table["ticket"] == kind)]

    def above(search: str, column: str) -> pd.DataFrame:
        """Return by how much a found ticket is above its random counterparts after training."""
        own = last[last["search"] == search].pivot_table(index="seed", columns=["ticket", "width"], values=column)
        return own["found"] - own["random"]

    kinds = [(search, kind) for search in ("edge-popup", "IMP") for kind in ("found", "random")]
    gained = {which: change(of(*which), "accuracy") for which in kinds}
    rest = change(of("edge-popup", "found"), "rest_accuracy")
    found = {
        "edge-popup width": gained["edge-popup", "found"].pipe(lambda t: t[t.columns.max()] - t[t.columns.min()]),
        "edge-popup update": above("edge-popup", "update").mean(axis=1),
        "edge-popup worth": above("edge-popup", "worth").mean(axis=1),
        "IMP accuracy": gained["IMP", "found"].mean(axis=1),
        "random accuracy": -gained["edge-popup", "random"].mean(axis=1),
    }
    for search in ("edge-popup", "IMP"):
        found[f"{search} counterparts"] = (gained[search, "found"] - gained[search, "random"]).mean(axis=1)
        found[f"{search} loss"] = -change(of(search, "found"), "loss").mean(axis=1)
    for width in rest:
        found[f"edge-popup accuracy {width:g}"] = gained["edge-popup", "found"][width]
        found[f"rest accuracy {width:g}"] = -rest[width]
    none = pd.Series(dtype=float)  # of a width that was not run
    return {name: decide(said, found.get(name, none).dropna().tolist()) for name, said in stated(fixed).items()}
