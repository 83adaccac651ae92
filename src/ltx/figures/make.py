"""Make a figure: run what is missing of its arms, decide its claims, and write picture, table and verdicts."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ltx.figures import module
from ltx.figures.arms import Finished, Store, plan
from ltx.figures.claims import Claim
from ltx.figures.drawing import MEANS, seeds_of, with_claims
from ltx.report.plots import save_plot
from ltx.runs import sweep
from ltx.runs.command import failures, specs_of
from ltx.store.files import commit


def make(name: str, overrides: list[str], command: list[str]) -> tuple[int, dict[str, Any]]:
    """Run what is missing of a figure and draw it; return the exit code and what its JSON says.

    Writes outputs/figures/NAME.png, .pdf, .csv and .json. A failed claim is a finding: it is printed, on the figure
    too, and the exit code stays 0.
    """
    fixed, arms = plan(name, overrides)
    specs = specs_of([arm.words for arm in arms], [])
    called = [{"arm": arm.name} for arm in arms]
    outcome = sweep.run(specs, command, f"figure-{name}", f"figure {name}", called)
    if outcome.interrupted:
        raise KeyboardInterrupt
    if outcome.exit_code:
        for paragraph in failures(outcome):
            print(f"ltx: {paragraph}", file=sys.stderr)
        return outcome.exit_code, {}

    store = Store([Finished(arm, spec, outcome.rows(spec)) for arm, spec in zip(arms, specs, strict=True)])
    table = module(name).rows(store)
    claims: list[Claim] = list(module(name).claims(table, fixed).values())
    counts = {arm.name: len(spec.seeds) for arm, spec in zip(arms, specs, strict=True)}
    words = f"{seeds_of(counts, fixed.get('shown', MEANS))} {fixed.get('caption', '')}"
    effect = fixed.get("effect", "the mean over seeds")
    picture = with_claims(module(name).draw(table), fixed["title"], fixed["source"], words, claims, effect)

    place = save_plot(picture, Path(specs[0].config["root"]) / "figures" / f"{name}.png")
    commit(place.with_suffix(".csv"), table.to_csv(index=False).encode())
    result = {
        "figure": name,
        "path": str(place),
        "source": fixed["source"],
        "runs": {arm.name: spec.key for arm, spec in zip(arms, specs, strict=True)},
        "claims": [in_json(claim) for claim in claims],
    }
    commit(place.with_suffix(".json"), json.dumps(result, indent=1).encode())
    return 0, {**result, "lines": [claim.line() for claim in claims]}


def in_json(claim: Claim) -> dict[str, Any]:
    """Return a claim as JSON holds it: where nothing was there to compare, null for NaN, which JSON does not have."""
    return json.loads(json.dumps(asdict(claim)).replace("NaN", "null"))
