"""What is said of an export: the table of its sizes and times, and the model card that goes with it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from ltx.export.build import Export
from ltx.export.folder import LOADER, ONNX
from ltx.export.restore import SCORES, TICKET
from ltx.export.timing import Times, processor
from ltx.identity.beside import words_for
from ltx.report import wording
from ltx.report.tables import interval_text, of_scores
from ltx.store.folders import RunFolder

HEADER = """\
---
library_name: pytorch
tags: [lottery-ticket, pruning]
---
"""
LOADING = """\
```python
import torch
from load import load

network = load()  # an nn.Module in eval mode: the logits of the run, bit for bit
logits = network(torch.zeros({shape}))
small = load(compressed=True)  # the same function up to rounding
```"""
FILES = {
    TICKET: "the weights: kept values or signs, masks as bits, biases, norms and statistics; with its digest",
    SCORES: "the scores that the mask was found by; nothing that computes needs them",
    LOADER: "makes the network of them, with torch and safetensors alone; `python load.py` says what it is",
    ONNX: "the same network as ONNX, for batches of any size",
}
CLASSES = 20  # names of outputs that a card lists


def lines(export: Export, times: Sequence[Times]) -> list[dict[str, str]]:
    """Return milliseconds and bytes, dense and compressed, as the lines of a table."""
    found = [
        {"": f"ms, batch of {one.batch}", "dense": f"{one.dense:.3g}", "compressed": f"{one.compressed:.3g}"}
        for one in times
    ]
    return [*found, {"": "bytes", "dense": f"{export.dense_bytes:,}", "compressed": f"{len(export.content):,}"}]


def measured_on(export: Export, times: Sequence[Times]) -> str:
    """Say how the table was measured."""
    threads = export.known.spec.config["threads"]
    rounds = min(one.rounds for one in times)
    return (
        f"ms: median of {rounds} alternating rounds or more, {threads} thread{'s' if threads > 1 else ''}, "
        f"{processor()}; bytes: 4 for each number of the dense network's state, and {TICKET}"
    )


def units(export: Export) -> str:
    """Say which hidden units the compressed network does without."""
    if export.why_whole:
        return f"The compressed network has all hidden units: {export.why_whole}."
    if not export.removed:
        return "The compressed network has all hidden units: each of them matters."
    return f"The compressed network does without {export.removed:,} hidden units that cannot matter."


def card(export: Export, times: Sequence[Times], contents: Mapping[str, bytes]) -> str:
    """Return the text of the model card."""
    known, row = export.known, export.row
    spec, facts = known.spec, known.spec.facts
    shape = ", ".join(map(str, [1, *facts.input_shape]))
    shape += ", dtype=torch.int64" if facts.task == "next_token" else ""
    command = ["ltx", "run", *words_for(spec), f"seeds=[{','.join(str(one.seed) for one in export.rows)}]"]
    files = [f"- `{name}` ({len(contents[name]):,} bytes): {said}." for name, said in FILES.items() if name in contents]
    parts = [
        f"# {wording.title(spec)}: seed {known.seed}, level {known.level}",
        f"A lottery ticket: {row.kept:,} of {row.prunable:,} weights that can be pruned are kept (density "
        f"{row.density:.2%}), and all others are zero. Of all {row.total:,} matrix weights "
        f"{row.kept + row.total - row.prunable:,} are left.",
        accuracy(export),
        "## How to load it",
        "In this folder:",
        LOADING.format(shape=shape),
        inputs(export),
        "`ltx.load_ticket(DIR)` brings it back into ltx, with its mask, scores and config.",
        "## What it takes",
        table(lines(export, times)),
        f"{measured_on(export, times)}. {units(export)}",
        "## How it was found",
        f"```sh\n{shlex.join(command)}\n```",
        provenance(export),
        "## Files",
        "\n".join(files),
    ]
    return HEADER + "\n" + "\n\n".join(parts) + "\n"


def accuracy(export: Export) -> str:
    """Say how good the ticket is, and those of the run's other seeds."""
    name, _ = wording.score(export.known.spec)
    scores = of_scores([row.test_accuracy for row in export.rows])
    own = f"{wording.capital(name)}: {export.row.test_accuracy:.4f}."
    if scores.n == 1:
        return f"{own} Its run has one seed at this level, so that no interval is known."
    return f"{own} Over the {scores.n} seeds of its run: {interval_text(scores)} (mean, 95 % interval by Student's t)."


def inputs(export: Export) -> str:
    """Say what the network takes and gives."""
    facts, manifest = export.known.spec.facts, RunFolder(export.known.path).manifest()
    shape = " x ".join(map(str, facts.input_shape))
    data = export.known.spec.config["data"]["name"]
    said = f'Inputs are {shape} each, scaled as `ltx.load_data("{data}")` gives them.'
    names = manifest.get("classes")
    if isinstance(names, list) and 0 < len(names) <= CLASSES:
        said += f" Outputs are for {', '.join(map(str, names))}, in this order."
    return said


def provenance(export: Export) -> str:
    """Say which run it is of, and what that ran on."""
    manifest = RunFolder(export.known.path).manifest()
    versions = manifest.get("versions")
    with_ = ", ".join(f"{name} {version}" for name, version in versions.items()) if isinstance(versions, dict) else ""
    git = manifest.get("git")
    commit = f", commit {git.get('commit')}{' (changed)' if git.get('dirty') else ''}" if isinstance(git, dict) else ""
    return f"Run `{export.known.run}`, with {with_ or 'versions that are not known'}{commit}."


def table(found: Sequence[Mapping[str, str]]) -> str:
    """Write lines as a table of Markdown."""
    heads = list(found[0])
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)], *([line[head] for head in heads] for line in found)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
