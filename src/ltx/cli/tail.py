"""`ltx tail`: whether tickets are short- or long-tailed as networks widen, from the runs that are there."""

from __future__ import annotations

import shutil
import textwrap

from ltx.cli.look import options, output_root
from ltx.errors import BadInput


def tail(arguments: list[str]) -> int:
    """Print the verdict on tails for every network whose random tickets were sampled or split; writes nothing."""
    from rich.console import Console

    from ltx.report.seed_runs import TRAINED, seed_losses
    from ltx.report.status import Entry, selected, to_json
    from ltx.report.tail_json import plain
    from ltx.report.tail_runs import networks, unfinished
    from ltx.report.tail_words import NOTHING, heading, sentences, tables
    from ltx.report.tails import answer, questions
    from ltx.store.find import run_keys
    from ltx.store.states import standing

    words, found = options(arguments, ("--json",), None)
    if words:
        raise BadInput(
            f"tail takes no word but KEY=VALUE, and got '{words[0]}'; data=digits chooses the runs of digits."
        )
    root = output_root(found)
    asked = quantile_of(found.get("quantile"))
    filters = {key: value for key, value in found.items() if key not in ("root", "quantile") and key[0] != "-"}
    everything = [Entry(standing(root / "runs" / key)) for key in run_keys(root)]
    entries = selected(everything, filters, ())
    trained = [entry for entry in everything if entry.config.get("method.name") in TRAINED]
    answers = [
        answer(network, question, points, seed_losses(trained, network.base), asked)
        for network in networks(entries)
        for question, points in questions(network)
    ]
    read = {run for one in answers for width in one.widths for run in width.point.runs}
    missing = unfinished(entries, read)
    if "--json" in found:
        print(to_json({"root": str(root), "questions": [plain(one) for one in answers], "unfinished": missing}))
        return 0
    console = Console(highlight=False)
    room = shutil.get_terminal_size().columns
    if not answers:
        which = f" that are {' '.join(f'{key}={value}' for key, value in filters.items())}" if filters else ""
        print(textwrap.fill(NOTHING.format(place=root / "runs", which=which), room, break_on_hyphens=False))
    for one in answers:
        print("\n".join(textwrap.wrap(heading(one), room)))
        for table in tables(one, console.width):
            console.print(table)
        for sentence in sentences(one):
            print(textwrap.fill(sentence, room, subsequent_indent="  ", break_on_hyphens=False))
        print()
    for sentence in missing:
        print(textwrap.fill(f"note: {sentence}.", room, subsequent_indent="  ", break_on_hyphens=False))
    return 0


def quantile_of(word: str | None) -> float | None:
    """Return the quantile that a person asks for. Raises BadInput where it is none above the median."""
    if word is None:
        return None
    try:
        quantile = float(word)
    except ValueError:
        quantile = -1.0
    if not 0.5 < quantile < 1:
        raise BadInput(f"quantile={word}: should be a number above 0.5 and below 1, as 0.99.")
    return quantile
