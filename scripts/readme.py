"""Make anew what the pages show: the table and picture of `make run`, what its tickets cost, a sweep, figures, and the
accuracies of methods.

    python scripts/readme.py                       # finished runs are read, missing ones trained: minutes
    python scripts/readme.py --small --to FOLDER   # a tiny size, to see that it works; FOLDER gets README.md and docs/

Words key=value are added to every run: `python scripts/readme.py root=elsewhere`. The text around the numbers, such as
which criterion of `at_init` they are of, is left as it stands.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from ltx import open_run
from ltx.export.build import Export
from ltx.figures.make import make
from ltx.identity.measure import Known
from ltx.report.plots import save_plot
from ltx.report.sweep_picture import draw_sweep
from ltx.report.tables import compared, table
from ltx.runs import sweep
from ltx.runs.command import failures, specs_of
from ltx.store.rows import Row

REPOSITORY = Path(__file__).resolve().parents[1]
MAIN = ["method=imp", "width=4"]  # `make run`
LEVELS = (0, 3, 5, 8, 11, 14)  # those of its table that README shows
COSTS = (0, 3, 8, 11, 14)  # those whose tickets README says the costs of
METHODS = ("dense", "imp", "edge_popup", "biprop", "supermask", "gem_miner", "at_init")
EACH = ["width=.25", "seeds=5"]  # the accuracies of the methods are of these
SWEPT = [[f"method={m}", f"width={w}"] for m in ("dense", "imp", "edge_popup", "biprop") for w in (0.25, 0.5, 1, 2)]
# The first alone is made at a tiny size: a tail needs many masks, and the others have sizes of their own.
FIGURES = ("imp", "tail", "bits", "same-ticket", "reinforcement")
PAGES = ("README.md", "docs/methods.md")
SMALL = ["optim.steps=42", "seeds=2", "width=.1", "workers=0"]
SMALL_FIGURE = ["optim.steps=10", "seeds=2", "width=.05", "method.levels=2", "workers=0"]


def finished(points: Sequence[list[str]], command: list[str]) -> tuple[sweep.Outcome, list[list[Row]]]:
    """Train what is missing of runs and return their rows."""
    outcome = sweep.run(specs_of(points, []), command)
    if outcome.exit_code:
        raise SystemExit("\n".join(failures(outcome)) or "interrupted; the same command continues")
    return outcome, [outcome.rows(spec) for spec in outcome.asked]


def table_text(rows: Sequence[Row]) -> str:
    """Return the table of a run as README shows it: some of its levels, no title, no rule."""
    shown = table([row for row in rows if row.level in LEVELS], "")
    caption, shown.caption = shown.caption, None  # which would be folded to the table's width
    text = io.StringIO()
    Console(file=text, width=120, highlight=False).print(shown)
    lines = [line.rstrip() for line in [*text.getvalue().splitlines(), *textwrap.wrap(str(caption), 80)]]
    return "\n".join(line for line in lines if line and not set(line) <= {" ", "─"}) + "\n"


def costs_text(run: Path) -> str:
    """Return the table of what the tickets of a run cost: kept, accuracy, bytes on disk and milliseconds of a batch."""
    lines = ["| kept | test accuracy | KB on disk | ms for 1 example | ms for 256 |", "|---:|---:|---:|---:|---:|"]
    for level in COSTS:
        made = Export.of(Known.of(open_run(run), None, level), scores=False)
        rows, (one, many) = made.rows, made.times()
        accuracy = f"{sum(row.test_accuracy for row in rows) / len(rows):.3f}".removeprefix("0")
        times = " | ".join(f"{t.compressed:.3g} ({t.dense:.3g})" for t in (one, many))
        size = f"{len(made.content) / 1000:,.0f} ({made.dense_bytes / 1000:,.0f})"
        lines.append(f"| {100 * rows[0].density:.1f} % | {accuracy} | {size} | {times} |")
    return "\n".join(lines) + "\n"


def accuracy_text(rows: Sequence[Row]) -> str:
    """Return a method's mean test accuracy, and what it keeps of all matrix weights unless that is all."""
    mean = f"{sum(row.test_accuracy for row in rows) / len(rows):.3f}".removeprefix("0")
    return mean if rows[0].share == 1 else f"{mean} at {100 * rows[0].share:.0f} %"


def with_table(readme: str, shown: str) -> str:
    """Return README with another table of `make run`."""
    readme, found = re.subn(r"(?<=^```text\n).*?(?=^```)", lambda _: shown, readme, count=1, flags=re.M | re.S)
    assert found == 1, "README.md has no block of text for the table of `make run`"
    return readme


def with_costs(readme: str, shown: str) -> str:
    """Return README with another table of what tickets cost."""
    readme, found = re.subn(r"^\| kept \|.*\n(?:\|.*\n)+", lambda _: shown, readme, count=1, flags=re.M)
    assert found == 1, "README.md has no table of what tickets cost"
    return readme


def with_accuracies(page: str, accuracies: Mapping[str, str]) -> str:
    """Return the page of the methods with other numbers in the last column of its table."""
    for method, accuracy in accuracies.items():
        number = rf"(^\| `{method}` \|.*\| )[.\d]+(?: at \d+ %)?( \([^|]*\))? \|$"
        page, found = re.subn(number, rf"\g<1>{accuracy}\g<2> |", page, flags=re.M)
        assert found == 1, f"docs/methods.md has no accuracy of {method}"
    return page


def main(small: bool, to: Path, words: list[str]) -> None:
    """Make everything and write it below a folder."""
    command = ["python", "scripts/readme.py", *words]
    words = [*words, *(SMALL if small else [])]
    outcome, (rows,) = finished([[*MAIN, *words]], command)
    _, groups = finished([[f"method={method}", *EACH, *words] for method in METHODS], command)
    accuracies = dict(zip(METHODS, map(accuracy_text, compared(groups)), strict=True))
    points = [[*point, *words] for point in (SWEPT[::4] if small else SWEPT)]
    swept, curves = finished(points, command)
    given = [word for word in words if word not in SMALL]
    (to / "docs").mkdir(parents=True, exist_ok=True)
    for name in FIGURES[:1] if small else FIGURES:
        code, figure = make(name, [*given, *SMALL_FIGURE] if small else given, command)
        if code:
            raise SystemExit(code)
        shutil.copy(figure["path"], to / "docs" / f"figure-{name}.png")
    readme, methods = ((REPOSITORY / page).read_text() for page in PAGES)
    costs = costs_text(outcome.asked[0].directory)
    (to / PAGES[0]).write_text(with_costs(with_table(readme, table_text(rows)), costs))
    (to / PAGES[1]).write_text(with_accuracies(methods, accuracies))
    shutil.copy(outcome.asked[0].directory / "plots" / "levels.png", to / "docs" / "imp-width4.png")
    save_plot(draw_sweep(swept.asked, sweep.labels(swept.asked, points), curves), to / "docs" / "sweep.png")
    (to / "docs" / "sweep.pdf").unlink()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a tiny size")
    parser.add_argument("--to", type=Path, default=REPOSITORY, help="where README.md and docs/ are written")
    parser.add_argument("words", nargs="*", metavar="key=value", help="added to every run")
    arguments = parser.parse_args()
    main(arguments.small, arguments.to, arguments.words)
