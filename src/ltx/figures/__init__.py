"""What figures share: the runs of an arm, tables, claims with verdicts, one style, the files beside a picture."""

from __future__ import annotations

import importlib
import json
import math
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
import yaml

from ltx.analysis.intervals import longest_run, mean_interval
from ltx.config.compose import CONF
from ltx.config.spec import Spec
from ltx.errors import BadInput, nearest
from ltx.report.plots import COLOURS, MARKERS, save_plot
from ltx.store.files import commit


@dataclass(frozen=True)
class Stated:
    """A claim as conf/figure fixes it before its seeds are run: what is said, by whom, above what, on how many seeds.

    A `threshold` of None is one that the data gives, such as a standard deviation.
    """

    statement: str
    source: str
    threshold: float | None
    n: int


@dataclass(frozen=True)
class Claim:
    """A statement of a paper, what we measured, and whether it holds here.

    `effect` with its 95 % `interval` over `n` seeds is compared with `threshold`: passed where the whole interval is
    above it, failed where it is below, undecided otherwise. `planned` is the n that was fixed before.
    """

    statement: str
    source: str
    effect: float
    interval: tuple[float, float]
    n: int
    planned: int
    threshold: float
    verdict: str

    def line(self) -> str:
        """Write the claim as one line."""
        low, high = self.interval
        seeds = f"n={self.n}" if self.n == self.planned else f"n={self.n} of {self.planned} planned"
        text = f"{self.effect:+.4f} [{low:+.4f}, {high:+.4f}], {seeds}, threshold {self.threshold:+.3g}"
        return f"{self.verdict.upper()}: {self.statement} ({self.source}): {text}"


def decide(stated: Stated, values: Sequence[float], threshold: float | None = None) -> Claim:
    """Decide whether the mean of `values`, one per seed, is above the stated threshold, or the one the data gives."""
    if stated.threshold is not None:
        threshold = stated.threshold
    assert threshold is not None, stated.statement
    mean, half = mean_interval(values) if len(values) else (math.nan, math.nan)  # nothing to compare: undecided
    low, high = mean - half, mean + half
    verdict = "passed" if low > threshold else "failed" if high < threshold else "undecided"
    text, source = stated.statement, stated.source
    return Claim(text, source, mean, (low, high), len(values), stated.n, threshold, verdict)


def paired(table: pd.DataFrame, one: str, other: str, column: str, level: int) -> list[float]:
    """Return one - other of a column at a level, seed by seed."""
    at = table[table["level"] == level].pivot(index="seed", columns="arm", values=column)
    return (at[one] - at[other]).dropna().tolist()


def mean_over(table: pd.DataFrame, one: str, other: str, levels: Sequence[int]) -> list[float]:
    """Return one - other of test accuracy, seed by seed, averaged over levels."""
    columns = [paired(table, one, other, "test_accuracy", level) for level in levels]
    return [sum(values) / len(values) for values in zip(*columns, strict=True)]


def decide_consecutive(
    stated: Stated,
    table: pd.DataFrame,
    arms: tuple[str, str],
    densities: tuple[float, float],
    least: int = 3,
) -> Claim:
    """Decide whether arms[0] beats arms[1] at `least` consecutive densities within `densities`, paired by seed.

    The effect shown is the smallest of the best run of consecutive densities; it fails where fewer are won and the
    mean difference over all of them is shown to be below 0.
    """
    levels = levels_within(table, *densities)
    claims = [decide(stated, paired(table, *arms, "test_accuracy", level)) for level in levels]
    start, length = longest_run([claim.verdict == "passed" for claim in claims])
    if length >= least:
        return min(claims[start : start + length], key=lambda claim: claim.effect)
    claim = decide(stated, mean_over(table, *arms, levels))
    return replace(claim, verdict="failed" if claim.verdict == "failed" else "undecided")


def levels_within(table: pd.DataFrame, low: float, high: float) -> list[int]:
    """List the levels whose density lies in [low, high], the denser first."""
    density = table.groupby("level")["density"].first()
    return [int(level) for level in density.index[(density >= low) & (density <= high)]]


@dataclass(frozen=True)
class Store:
    """The finished runs of a figure: for every arm its spec and its summary rows."""

    arms: dict[str, Spec]
    rows: dict[str, list[dict[str, Any]]]

    def table(self) -> pd.DataFrame:
        """Return the summary rows of all arms, a column `arm` first."""
        rows = [{"arm": arm, **row} for arm, found in self.rows.items() for row in found]
        return pd.DataFrame(rows).drop(columns="layers").astype({"early_stop_step": "Float64"})


def style(arm_index: int) -> dict[str, Any]:
    """Return colour, marker and line of the arm with this index: distinct in colour, to all eyes, and in grey."""
    lines = ("-", "--", "-.", ":")
    return {
        "color": COLOURS[arm_index % len(COLOURS)],
        "marker": MARKERS[arm_index % len(MARKERS)],
        "ls": lines[arm_index % len(lines)],
        **{"ms": 4, "lw": 1.2, "capsize": 2},
    }


def curve(axes: Any, table: pd.DataFrame, x: str, y: str, label: str, index: int, scale: float = 1.0) -> None:
    """Draw the mean of y over seeds against x with its 95 % interval."""
    groups = [
        (key, mean_interval(group[y].dropna().tolist())) for key, group in table.groupby(x) if group[y].notna().any()
    ]
    xs = [scale * float(key) for key, _ in groups]
    halves = [0 if math.isnan(half) else half for _, (_, half) in groups]
    axes.errorbar(xs, [mean for _, (mean, _) in groups], yerr=halves, label=label, **style(index))


def against_density(axes: Any, ylabel: str) -> None:
    """Label an axis of densities in percent, dense at the left."""
    from matplotlib.ticker import LogLocator

    axes.set(xscale="log", xlabel="density: weights kept, %", ylabel=ylabel)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.invert_xaxis()


def names() -> list[str]:
    """Name the figures there are."""
    return sorted(path.stem.replace("_", "-") for path in (CONF / "figure").glob("*.yaml"))


def plan(name: str, overrides: list[str]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return a figure's specification and the overrides of every arm. Raises BadInput for an unknown name."""
    if name not in names():
        raise BadInput(f"No figure is named {name}{nearest(name, names())}")
    fixed = yaml.safe_load((CONF / "figure" / f"{name.replace('-', '_')}.yaml").read_text())
    arms = fixed["arms"] if "arms" in fixed else module(name).arms(fixed)
    given = {word.partition("=")[0].rpartition(".")[2]: word.partition("=")[2] for word in overrides}
    values = {key: given.get(key, value) for key, value in fixed.get("values", {}).items()}

    def filled(words: list[str]) -> list[str]:
        return [fresh_seeds(Template(word).substitute(values), fixed["first_seed"]) for word in words]

    return fixed, {arm: [*filled(fixed["common"]), *filled(words), *overrides] for arm, words in arms.items()}


def fresh_seeds(word: str, first: int) -> str:
    """Return `seeds=N` of a figure's yaml as the N seeds from `first` on: claims are not decided on explored seeds."""
    key, _, n = word.partition("=")
    return f"seeds=[{','.join(str(first + i) for i in range(int(n)))}]" if key == "seeds" else word


def stated(fixed: dict[str, Any]) -> dict[str, Stated]:
    """Return the claims of a figure's yaml by their names."""
    return {name: Stated(**{"source": fixed["source"], **claim}) for name, claim in fixed["claims"].items()}


def module(name: str) -> Any:
    """Return the module of a figure: rows(store) -> table, draw(table), claims(table, spec), arms(spec) if a grid.

    `claims` decides every claim that the figure's yaml states, by its name.
    """
    return importlib.import_module(f"ltx.figures.{name.replace('-', '_')}")


def make(name: str, overrides: list[str], command: list[str]) -> tuple[int, dict[str, Any]]:
    """Run what is missing of a figure and draw it; return the exit code and what its JSON says.

    Writes outputs/figures/NAME.png, .pdf, .csv and .json. A failed claim is a finding: it is printed, on the figure
    too, and the exit code stays 0.
    """
    from ltx.runs import sweep
    from ltx.runs.command import failures, specs_of

    fixed, arms = plan(name, overrides)
    specs = dict(zip(arms, specs_of(list(arms.values()), []), strict=True))
    outcome = sweep.run(list(specs.values()), command, f"figure-{name}", f"figure {name}")
    if outcome.exit_code:
        for paragraph in failures(outcome):
            print(f"ltx: {paragraph}", file=sys.stderr)
        if outcome.interrupted:
            raise KeyboardInterrupt
        return outcome.exit_code, {}
    table = module(name).rows(Store(specs, {arm: outcome.rows(e) for arm, e in specs.items()}))
    claims: list[Claim] = list(module(name).claims(table, fixed).values())
    figure = module(name).draw(table)
    place = Path(next(iter(specs.values())).config["root"]) / "figures" / name
    caption(figure, fixed["title"], fixed["source"], claims)
    for suffix in ("png", "pdf"):
        save_plot(figure, place.with_suffix(f".{suffix}"))
    commit(place.with_suffix(".csv"), table.to_csv(index=False).encode())
    result = {
        "figure": name,
        "path": str(place.with_suffix(".png")),
        "source": fixed["source"],
        "runs": {arm: spec.key for arm, spec in specs.items()},
        "claims": [json.loads(json.dumps(asdict(claim)).replace("NaN", "null")) for claim in claims],
    }
    commit(place.with_suffix(".json"), json.dumps(result, indent=1).encode())
    return 0, {**result, "lines": [claim.line() for claim in claims]}


def caption(figure: Any, title: str, source: str, claims: Sequence[Claim]) -> None:
    """Print the title above a figure and every claim with its verdict below it."""
    width, height = figure.get_size_inches()
    room = int(17 * width)  # characters of the size below
    lines = [line for claim in claims for line in textwrap.wrap(claim.line(), room, subsequent_indent="    ")]
    below = 0.16 * len(lines) + 0.15
    figure.set_size_inches(width, height + below)
    figure.set_layout_engine("constrained", rect=(0, below / (height + below), 1, 1 - below / (height + below)))
    figure.suptitle(f"{title}\n{source}; mean and 95 % interval over seeds", fontsize=9)
    for i, line in enumerate(reversed(lines)):
        colour = "#A00000" if line.startswith("FAILED") else "#000000"
        figure.text(0.01, (0.08 + 0.16 * i) / (height + below), line, fontsize=6.5, color=colour, family="monospace")
