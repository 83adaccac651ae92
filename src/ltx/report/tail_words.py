"""What `ltx tail` prints of a question: tables of its widths, the evidence, and the verdict in words."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.table import Table

from ltx.analysis.intervals import Interval
from ltx.analysis.shape import TOP, UNDECIDED, Shape
from ltx.analysis.tail import Null
from ltx.analysis.verdict import Evidence
from ltx.report.grid import Line, fitting, grid, without
from ltx.report.tail_runs import model_words
from ltx.report.tails import Question, Width

NOTHING = """\
No random tickets have been looked at under {place}{which}, so that nothing can be said of their tails. `ltx figure \
tail` runs what a verdict takes; `ltx run -m method=ticket_sample model=mlp model.hidden=[16] width=.5,1,2 seeds=5` \
and the same with method=ticket_split give a first one."""
SAMPLED = (
    "sampled masks; dead: constant output; nothing: best without any logits, at exactly -log(classes); xi: mean over "
    "inits [95 % interval] over the quantile, beside what Gaussian and squared Gaussian samples of the same size show"
)
STABLE = (
    "xi over other quantiles: it settles where the tail begins; moment: another estimate at the first table's quantile"
)
SHAPES = (
    "s: how fast -log P grows with the quality, mean over inits [95 % interval], beside that of known laws; less "
    "squared: s less a squared Gaussian's of the same init, the laws being cut at what knows nothing; signal: "
    "s of sqrt(quality + log classes); log10 P: what every init reaches"
)
BITS = (
    "bits: -log2 P(quality >= q) of a random mask, mean over inits [95 % interval]; available: log2 of the number of "
    "masks; spare: available less needed. No change of unit changes them"
)


def number(value: float, digits: int = 2, sign: str = "") -> str:
    """Write a number, - where there is none."""
    return "-" if math.isnan(value) else f"{value:{sign}.{digits}f}"


def mean_text(found: Interval, digits: int = 2, sign: str = "") -> str:
    """Write a mean with its interval; the mean alone where no interval is known, - where there is nothing."""
    if not found.n or math.isnan(found.low):
        return number(found.mean, digits, sign)
    return f"{found.mean:{sign}.{digits}f} [{found.low:{sign}.{digits}f}, {found.high:{sign}.{digits}f}]"


def band(null: Null) -> str:
    """Write the middle 95 % of a null."""
    return f"{null.low:+.2f}..{null.high:+.2f}"


def tables(found: Question, room: int) -> Iterator[Table]:
    """Yield the tables of a question, those that have something to show, in a width of `room`."""
    widths = found.widths
    if any(width.masks for width in widths):
        lines = [sampled_line(width) for width in widths]
        yield grid(
            fitting(
                [
                    lines,
                    without(lines, "masks"),
                    without(lines, "masks", "dead"),
                    without(lines, "masks", "dead", "inits"),
                ],
                room,
            ),
            caption=SAMPLED,
        )
    quantiles = sorted({quantile for width in widths if width.xi for quantile, _ in width.xi.stability})
    if quantiles:
        lines = [stable_line(width, quantiles) for width in widths if width.xi]
        fewer = [f"{quantile:g}" for quantile in quantiles][1::2]
        yield grid(fitting([lines, without(lines, *fewer)], room), caption=STABLE)
    if any(width.shape.s.n for width in widths):
        lines, extra = [shape_line(width) for width in widths], ("repeats", "signal", "inits", "log10 P")
        yield grid(
            fitting([lines, without(lines, "repeats"), *(without(lines, *extra[:n]) for n in (2, 3, 4))], room),
            caption=SHAPES,
        )
    lines = [line for width in widths for line in bits_lines(width)]
    if lines:
        lines.sort(key=lambda line: -float(line["log10 P"]))
        yield grid(fitting([lines, without(lines, "available")], room), caption=BITS)
    trends = [line for line in found.verdict.evidence if not line.evidence.startswith(("shape", "xi"))]
    if trends:
        yield grid([evidence_line(line) for line in trends], ("evidence", "reads as"))


def sampled_line(width: Width) -> Line:
    """Return the line of one width about its sampled masks."""
    point, xi = width.point, width.xi
    cells = {
        "width": f"{point.width:g}",
        "inits": str(len(point.inits)),
        "masks": f"{width.masks:,}",
        "dead": number(100 * width.dead, 1) + " %",
        "nothing": number(100 * width.atom.mean, 0) + " %",
    }
    if xi is None:
        return {**cells, "at": "-", "xi": "-", "Gaussian": "-", "squared": "-"}
    own = xi.sampled
    return {
        **cells,
        "at": f"{xi.quantile:g}",
        "xi": mean_text(own.xi, 2, "+"),
        "Gaussian": band(own.gaussian),
        "squared": band(own.squared),
    }


def stable_line(width: Width, quantiles: list[float]) -> Line:
    """Return the line of one width with xi over several quantiles."""
    assert width.xi is not None
    found = dict(width.xi.stability)
    cells = {f"{quantile:g}": number(found.get(quantile, math.nan), 2, "+") for quantile in quantiles}
    return {"width": f"{width.point.width:g}", **cells, "moment": number(width.xi.moment, 2, "+")}


def shape_line(width: Width) -> Line:
    """Return the line of one width about its shape."""
    shape, known = width.shape, width.shape.references
    least, most = width.repeats
    return {
        "width": f"{width.point.width:g}",
        "inits": str(shape.s.n),
        "repeats": str(most) if least == most else f"{least}-{most}",
        "log10 P": number(width.deepest, 1),
        "s": mean_text(shape.s),
        "Gaussian": number(known.gaussian),
        "exponential": number(known.exponential),
        "squared": number(known.squared),
        "less squared": mean_text(shape.differences.squared, 2, "+"),
        "signal": mean_text(shape.signal),
    }


def bits_lines(width: Width) -> Iterator[Line]:
    """Yield the lines of one width about bits."""
    for at in width.bits:
        yield {
            "quality": f"{at.quality:.4f}",
            "log10 P": f"{at.log10_p:.1f}",
            "width": f"{width.point.width:g}",
            "available": number(width.point.bits, 0),
            "needed": mean_text(at.needed, 1),
            "spare": mean_text(at.spare, 1),
        }


def evidence_line(line: Evidence) -> Line:
    """Return one line of evidence."""
    value = mean_text(Interval(line.value, line.low, line.high, 2), 3 if abs(line.value) < 10 else 1, "+")
    return {"evidence": line.evidence, "value": value, "reads as": line.reads}


def sentences(found: Question) -> Iterator[str]:
    """Yield what a question's answer is in words: each width, what is wrong, and the verdict."""
    alike: dict[str, list[Width]] = {}
    for width in found.widths:
        alike.setdefault(of_one(width.shape), []).append(width)
    for sentence, widths in alike.items():
        names = ", ".join(f"{width.point.width:g}" for width in widths)
        yield f"width{'s' * (len(widths) > 1)} {names}: {sentence}"
    for flag in found.notes:
        yield f"note: {flag}."
    if not found.tests:
        yield "note: no losses of 30 seeds at 3 widths are there, so that ensembling is not judged."
    verdict = found.verdict
    own = f" (by the tails alone: {verdict.tails})" if verdict.tails not in (verdict.word, UNDECIDED) else ""
    yield f"verdict: {verdict.word}{own}: {verdict.reason}."


def of_one(shape: Shape) -> str:
    """Return what one width is in words."""
    depth = f" between P = 1e{math.log10(TOP):.0f} and 1e{shape.log10_deep:.0f}" if shape.s.n else ""
    other = f" In the signal's unit it would be {shape.signal_word}: words depend on the unit, bits do not."
    return f"{shape.word}{depth}: {shape.reason}.{other if shape.units_differ else ''}"


def heading(found: Question) -> str:
    """Name a question."""
    return f"{model_words(found.network.base)}, {found.question}"
