"""What `ltx tail --json` prints of a question."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ltx.analysis.intervals import Interval
from ltx.analysis.shape import LAWS
from ltx.report.tails import Question, Width


def plain(found: Question) -> Mapping[str, object]:
    """Return a question's answer for a program to read."""
    verdict = found.verdict
    return {
        "network": dict(found.network.base),
        "question": found.question,
        "widths": [plain_width(width) for width in found.widths],
        "seeds": {one.method: {f"{w:g}": len(v) for w, v in sorted(one.losses.items())} for one in found.losses},
        "evidence": [{name: finite(value) for name, value in vars(line).items()} for line in verdict.evidence],
        "verdict": verdict.word,
        "tails": verdict.tails,
        "reason": verdict.reason,
        "flags": found.notes,
        "runs": sorted(
            {run for width in found.widths for run in width.point.runs} | {r for o in found.losses for r in o.runs}
        ),
    }


def plain_width(width: Width) -> Mapping[str, object]:
    """Return what is known of one width for a program to read."""
    point, shape, xi = width.point, width.shape, width.xi
    return {
        "width": point.width,
        "density": point.density,
        "kept": point.kept,
        "inits": len(point.inits),
        "masks": width.masks,
        "dead": finite(width.dead),
        "atom": bounds(width.atom),
        "repeats": [*width.repeats],
        "log10_p": finite(width.deepest),
        "xi": None
        if xi is None
        else {
            "quantile": xi.quantile,
            "excesses": xi.excesses,
            **bounds(xi.sampled.xi),
            "gaussian": [xi.sampled.gaussian.low, xi.sampled.gaussian.high],
            "squared_gaussian": [xi.sampled.squared.low, xi.sampled.squared.high],
            "moment": finite(xi.moment),
            "stability": [[*pair] for pair in xi.stability],
        },
        "s": {**bounds(shape.s), **vars(shape.references), "log10_p": finite(shape.log10_deep)},
        "s_less": {name: bounds(getattr(shape.differences, name)) for name in LAWS},
        "s_signal": bounds(shape.signal),
        "word": shape.word,
        "word_signal": shape.signal_word,
        "reason": shape.reason,
        "bits": finite(point.bits),
        "qualities": [
            {"quality": at.quality, "log10_p": at.log10_p, "needed": bounds(at.needed), "spare": bounds(at.spare)}
            for at in width.bits
        ],
    }


def bounds(found: Interval) -> dict[str, object]:
    """Return a mean with its interval for a program to read."""
    return {"mean": finite(found.mean), "low": finite(found.low), "high": finite(found.high), "n": found.n}


def finite(value: object) -> object:
    """Return a value for JSON, which has no nan and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
