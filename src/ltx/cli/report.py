"""`ltx report`: one HTML page of a sweep, of a figure, of some runs, or of everything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ltx.cli.look import options, output_root
from ltx.errors import BadInput, nearest

if TYPE_CHECKING:
    from ltx.report.page_data import Content


def report(arguments: list[str]) -> int:
    """Write the page and print where it is."""
    words, found = options(arguments, (), ("experiment", "out", "root"))
    root = output_root(found)
    out = found.get("out")
    if out is not None and (not out.endswith(".html") or Path(out).is_dir()):
        raise BadInput(f"out={out} should name a file that ends in .html, out=report.html say.")
    if "experiment" in found and words:
        raise BadInput(
            f"experiment={found['experiment']} names a sweep, which stands alone; leave out {' '.join(words)}."
        )
    content, place = asked(words, found.get("experiment"), root)
    from ltx.report.page import write
    from ltx.runs.checks import check_place
    from ltx.store.files import writing

    if out is not None:
        place = Path(out)
        check_place(place.absolute().parent, f"out={out}")
    with writing(place):
        write(content, place)
    print(f"page:  {place}")
    return 0


def asked(words: list[str], experiment: str | None, root: Path) -> tuple[Content, Path]:
    """Return what the page is of and where it belongs. Raises BadInput."""
    from ltx.report.page import NAME
    from ltx.report.page_data import of_all, of_figure, of_runs, of_sweep
    from ltx.store.find import exact_run, find_run
    from ltx.store.sweeps import find_sweep, sweeps

    if words[:1] == ["figure"]:
        from ltx.figures import names

        name = " ".join(words[1:])
        if name not in names():
            raise BadInput(f"report figure takes one NAME{nearest(name, names())}")
        return of_figure(name, root), root / "figures" / f"{name}.html"
    known = [name for sweep in sweeps(root) for name in (sweep.path.name, sweep.name) if name]
    if experiment is not None:
        sweep = find_sweep(experiment, root)
        if sweep is None:
            raise BadInput(
                f"No sweep is named {experiment} under {root / 'sweeps'}{nearest(experiment, known)} "
                f"`ltx run experiment={experiment}` runs a named one."
            )
        return of_sweep(sweep), sweep.path / NAME
    if not words:
        return of_all(root), root / NAME
    sweep = find_sweep(words[0], root) if len(words) == 1 and not exact_run(words[0], root) else None
    if sweep is not None:
        return of_sweep(sweep), sweep.path / NAME
    paths = list(dict.fromkeys(find_run(word, root, known) for word in words))
    title = f"Run {paths[0].name}" if len(paths) == 1 else f"{len(paths)} runs"
    return of_runs(paths, root, title), root / NAME
