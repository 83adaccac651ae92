"""Accuracy and instability of tickets against the step they are rewound to, in an unstable and a stable network."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ltx.analysis.connectivity import instability
from ltx.config.spec import Spec
from ltx.figures.arms import Arm, Store
from ltx.figures.claims import Claim, decide, stated
from ltx.figures.drawing import curve, line_at, reference
from ltx.figures.networks import one_thread
from ltx.report.letters import SMALL
from ltx.report.style import number_axis, page, within
from ltx.store.folders import RunFolder
from ltx.tensors import Tensors, under
from ltx.training.evaluate import calibration
from ltx.training.line import along
from ltx.training.task import TASKS

RETRAINED = {"lr_rewind": "learning rate rewound", "finetune": "fine-tuned"}
STABLE = 0.02  # Frankle et al. 2020, section 3: stable is an instability below 2 %


def arms(fixed: dict[str, Any]) -> list[Arm]:
    """Return an arm per setting and rewinding step k, each followed by its copy in another data order; the variants."""
    found = []
    imp = ["method=imp", "method.fraction=$fraction"]
    for setting, steps in fixed["rewind"].items():
        network = fixed["settings"][setting]
        for k in steps:
            facts = {"setting": setting, "retrain": "rewind", "k": k}
            found.append(Arm(f"{setting} k={k}", [*network, *imp, f"method.rewind={k}"], {**facts, "copy": False}))
            trunk = f"trunk={{method:imp,method.levels:$levels,method.fraction:$fraction,method.rewind:{k}}}"
            words = [*network, "method=control", "method.kind=data_order", trunk]
            found.append(Arm(f"{setting} k={k} copy", words, {**facts, "copy": True}))
    for variant in fixed["variants"]:
        words = [*fixed["settings"]["unstable"], *imp, f"method.retrain={variant}"]
        facts = {"setting": "unstable", "retrain": variant, "k": 0, "copy": False}
        found.append(Arm(f"unstable {variant}", words, facts))
    return found


def rows(store: Store) -> pd.DataFrame:
    """Return a row per setting, retraining, rewinding step, seed and level, with instability where there is a copy."""
    found = []
    copies = {pair(done.arm): done.spec for done in store.arms if done.arm.facts["copy"]}
    for done in store.arms:
        if done.arm.facts["copy"]:
            continue
        copy = copies.get(pair(done.arm))
        for row in done.rows:
            values: dict[str, Any] = {name: done.arm.facts[name] for name in ("setting", "retrain")}
            values["k"] = done.spec.plan(0).anchor
            values |= {name: getattr(row, name) for name in ("seed", "level", "density", "test_accuracy")}
            if copy is not None:
                values["instability"] = measure(done.spec, copy, row.seed, row.level)
            found.append(values)
    return pd.DataFrame(found)


def pair(arm: Arm) -> tuple[str | float, ...]:
    """Return the facts that an arm shares with its copy alone."""
    return tuple(arm.facts[name] for name in ("setting", "retrain", "k"))


def measure(spec: Spec, copy: Spec, seed: int, level: int) -> float:
    """Return the instability in test error between a ticket's two trainings, statistics estimated anew on the line."""
    streams = spec.streams(seed)
    network = spec.network()
    data = spec.data
    subset = calibration(data, streams)

    def effective(run: Spec) -> Tensors:
        found = RunFolder(run.directory).seed(seed).read_level(level, run.identity(seed))
        assert found is not None, f"level {level} of seed {seed} of {run.key}"
        end, mask = under("end", found[0]), under("mask", found[0])
        weights = {name: end[name] for name, _ in network.named_parameters()}
        return end | run.method.effective(weights, {}, mask)

    with one_thread(), spec.form.context("cpu"):
        ends = effective(spec), effective(copy)
        [(_, errors)] = along(network, *ends, [data.test], TASKS[data.task], spec.form, restate=subset)
    return instability(errors)


def draw(table: pd.DataFrame) -> Figure:
    """Draw accuracy above, instability below, against the rewinding step; a column per setting, a line per density."""
    figure, panels = page(2, 1.75, 2, sharex="col", sharey="row")
    for column, (setting, group) in enumerate(table.groupby("setting", sort=False)):
        rewound = group[group["retrain"] == "rewind"]
        above, below = panels[:, column]
        levels = list(rewound.groupby("level"))
        for index, (_, part) in enumerate(levels):
            label = f"{100 * part['density'].iloc[0]:.3g} % kept"
            curve(above, part, "k", "test_accuracy", label, index, len(levels))
            curve(below, part, "k", "instability", label, index, len(levels))
        others = group[(group["retrain"] != "rewind") & (group["level"] == group["level"].max())]
        for kind, part in others.groupby("retrain"):
            kept = f"{100 * part['density'].iloc[0]:.3g} % kept"
            reference(above, part["test_accuracy"], f"{RETRAINED[str(kind)]}, {kept}")
        line_at(below, STABLE, "2 %: stable below")
        above.set_title(f"{setting} network", fontsize=SMALL, pad=3)
        number_axis(below, rewound["k"], "rewinding step")
    for axes in panels[:, 0]:
        within(axes, 0, 1)
    panels[0, 0].set_ylabel("test accuracy")
    panels[1, 0].set_ylabel("instability (test error)")
    return figure


def claims(table: pd.DataFrame, fixed: dict[str, Any]) -> dict[str, Claim]:
    """Decide: in the unstable network accuracy rises with k and instability falls; in the stable one both are flat."""
    said = stated(fixed)
    rewound = table[table["retrain"] == "rewind"]
    unstable = rewound[rewound["setting"] == "unstable"]
    levels = sorted(unstable["level"].unique())[-3:]  # the three sparsest, averaged per seed
    by_k = unstable[unstable["level"].isin(levels)].pivot_table(
        index="seed", columns="k", values=["test_accuracy", "instability"]
    )
    accuracy, instabilities, late = by_k["test_accuracy"], by_k["instability"], fixed["late"]
    worst = rewound[rewound["setting"] == "stable"].groupby("seed")["instability"].max()
    rate = table[(table["retrain"] == "lr_rewind") & table["level"].isin(levels)]
    return {
        "gain": decide(said["gain"], (accuracy[late] - accuracy[0]).tolist()),
        "drop": decide(said["drop"], (instabilities[0] - instabilities[late]).tolist()),
        "unstable": decide(said["unstable"], instabilities[0].tolist()),
        "stable": decide(said["stable"], (STABLE - worst).tolist()),
        "rate": decide(said["rate"], (rate.groupby("seed")["test_accuracy"].mean() - accuracy[late]).dropna().tolist()),
    }
