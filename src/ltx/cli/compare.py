"""`ltx compare A B`: whether two tickets are the same, against every null and up to the network's symmetries."""

from __future__ import annotations

import shutil
import textwrap

from ltx.cli.look import options, output_root, reference, told
from ltx.errors import BadInput


def compare(arguments: list[str]) -> int:
    """Compare the tickets of two runs, print what they share, and draw it; trains nothing."""
    words, found = options(arguments, ("--json",), ("root", "trust"))
    if len(words) != 2:
        raise BadInput(
            "compare takes two tickets, A and B, each RUN, RUN:seed or RUN:seed:level (ltx status lists the runs)."
        )
    root, trust = output_root(found), told(found, "trust")
    places = [reference(word, root) for word in words]

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from ltx.api import open_run
    from ltx.identity.beside import STEPS, comparison
    from ltx.report.identity_picture import picture
    from ltx.report.identity_words import plain, sentences, tables
    from ltx.report.plots import save_plot
    from ltx.report.status import to_json
    from ltx.store.files import writing

    console = Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    terminal = Console(stderr=True)
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("reading", total=STEPS)
        one_run, other_run = ((open_run(path, trust), seed, level) for path, seed, level in places)
        seen, one, other = comparison(
            one_run, other_run, root, lambda words: progress.update(task, advance=1, description=words)
        )
    if "--json" in found:
        print(to_json(plain(seen)))
        return 0
    room = shutil.get_terminal_size().columns
    print(f"A: {seen.one.name}\nB: {seen.other.name}")
    for table in tables(seen, console.width):
        console.print(table)
    for sentence in sentences(seen):
        print(textwrap.fill(sentence, room, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False))
    name = f"{seen.one.name}--{seen.other.name}".replace(":", "-")
    place = root / "compare" / f"{name}.png"
    with writing(place):
        save_plot(picture(seen, one.ticket.mask, other.ticket.mask), place)
    print(f"picture: {place}")
    return 0
