"""A report as one HTML file that needs nothing else: what is on it, and its text.

Every text on it may come from a file that somebody else wrote. The template escapes all of them, JSON has no `<`, and
the page's own policy lets no script run but the two that are in it, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ltx.report.page_charts import Chart, Map, Names, charts, maps, percent
from ltx.report.page_data import Content, Point, is_number
from ltx.report.page_tables import commands, costs, environments, link, points_table
from ltx.store.files import commit

NAME = "report.html"  # in a sweep's folder or the output root
HERE = Path(__file__).parent
OWN_FILES = ("config.yaml", "manifest.json", "summary.csv")
MARKS = {
    "o": "M9 5a3 3 0 1 0 6 0a3 3 0 1 0-6 0z",
    "s": "M9 2h6v6h-6z",
    "^": "M12 2l3.5 6h-7z",
    "D": "M12 1l4 4l-4 4l-4-4z",
    "v": "M12 8l3.5-6h-7z",
    "P": "M9 5h6M12 2v6",
    "X": "M9 2l6 6M15 2l-6 6",
}  # the markers of style.MARKERS, as paths in the middle of 24 by 10


def write(content: Content, place: Path) -> Path:
    """Write the page of some content, whole or not at all, and return its path."""
    commit(place, page(content, place).encode(errors="replace"))  # JSON can hold halves of characters
    return place


def page(content: Content, place: Path) -> str:
    """Return the page as it is to be read at a place: its links are relative to the folder of that."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from ltx.report.page_drawing import address, library

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found = charts(content)
    script, style = own_file("page.js"), own_file("page.css")
    scripts = [script, library()] if found else [script]
    layers = maps(content)
    least = min((v for m in layers for row in m.densities for v in row if v > 0), default=1.0)
    failures = failed(content.points)
    sections = [("figure", "Figure")] if content.claims or content.picture else []
    sections += [("table", "Points"), *((chart.name, chart.title) for chart in found)]
    sections += [("layers", "Layers")] if layers else []
    sections += [("failures", "Failures")] if failures else []
    sections += [("costs", "Costs"), ("provenance", "Provenance"), ("files", "Files")]
    return environment.get_template("page.html").render(
        content=content,
        policy=policy(scripts),
        version=version("ltx"),
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        style=Markup(style),
        script=Markup(script),
        library=Markup(scripts[-1]),
        sections=sections,
        facts=facts(content),
        table=points_table(content.points, place.parent),
        claims=list(map(claim_cells, content.claims)),
        picture=address(content.picture, "png") if content.picture else "",
        charts=[drawn(chart) for chart in found],
        maps=[map_cells(layer_map, least) for layer_map in layers],
        least=percent(least),
        failures=failures,
        costs=costs(content.points),
        environments=environments(content.points),
        commands=commands(content.points),
        files=[files(point, place.parent) for point in content.points],
    )


@cache
def own_file(name: str) -> str:
    """Return a file that lies beside this one."""
    return (HERE / name).read_text("utf-8")


def policy(scripts: Sequence[str]) -> str:
    """Return what a browser may do for the page: run these scripts, and load nothing."""
    digests = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {digests}; base-uri 'none'"


def facts(content: Content) -> list[tuple[str, str]]:
    """Return what was asked and how far it is, in lines of two cells."""
    points = content.points
    seeds = sorted({seed for point in points for seed in point.asked})
    states = [point.state for point in points]
    done = f"{states.count('done')} of {len(points)} done"
    others = [f"{states.count(state)} {state}" for state in dict.fromkeys(states) if state != "done"]
    times = f"{content.begun} to {content.ended}" if content.begun and content.ended else content.begun
    minutes = [point.minutes for point in points if not math.isnan(point.minutes)]
    return [
        (name, text)
        for name, text in (
            ("command", content.command),
            ("time (UTC)", times),
            ("points", ", ".join([done, *others])),
            ("seeds", f"{len(seeds)} ({', '.join(map(str, seeds[:20]))}{', ...' if len(seeds) > 20 else ''})"),
            ("training", f"{math.fsum(minutes):,.1f} minutes of all seeds and levels together" if minutes else ""),
        )
        if text
    ]


def claim_cells(claim: Mapping[str, Any]) -> dict[str, str]:
    """Return the cells of a claim; what is not as `ltx figure` writes it is a dash."""

    def written(value: object) -> str:
        return f"{value:.4g}" if is_number(value) and isinstance(value, int | float) else "-"

    bounds = claim.get("interval")
    low, high = map(written, bounds) if isinstance(bounds, list) and len(bounds) == 2 else ("-", "-")
    verdict = str(claim.get("verdict"))
    return {
        "statement": str(claim.get("statement") or "-"),
        "verdict": verdict if verdict in ("passed", "failed", "undecided") else "-",
        "effect": f"{written(claim.get('effect'))} [{low}, {high}]",
        "threshold": written(claim.get("threshold")),
        "n": written(claim.get("n")),
    }


def drawn(chart: Chart) -> dict[str, Any]:
    """Return a chart as the template wants it, each panel drawn twice."""
    from markupsafe import Markup

    from ltx.report.page_drawing import interactive, svg

    panels = []
    for index, panel in enumerate(chart.panels):
        target = f"{chart.name}-{index}"
        live = Markup(interactive(panel, target).replace("<", "\\u003c"))  # no text of it may end the element
        said = {"heading": panel.heading, "xlabel": panel.xlabel, "ylabel": panel.ylabel}
        panels.append({**said, "still": svg(panel), "target": target, "live": live})
    legend = [(name, colour, MARKS[marker]) for name, colour, marker in chart.legend]
    return {"name": chart.name, "title": chart.title, "caption": chart.caption, "panels": panels, "legend": legend}


def map_cells(found: Map, least: float) -> dict[str, Any]:
    """Return a map of layers as the template wants it, densities in percent."""
    from ltx.report.page_drawing import map_png

    densities = [[None if math.isnan(v) else float(f"{100 * v:.3g}") for v in row] for row in found.densities]
    last = ", ".join(f"{layer} {row[-1]} %" for layer, row in zip(found.layers, densities, strict=True))
    return {
        "name": found.name,
        "layers": found.layers,
        "count": len(found.levels),
        "levels": json.dumps([*found.levels]),
        "densities": json.dumps(densities),
        "first": found.levels[0],
        "last": found.levels[-1],
        "picture": map_png(found, least),
        "alt": f"{found.name}, level {found.levels[-1]}: {last}",
    }


def failed(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Return the failures of all seeds with what they are of."""
    names = Names(points)
    return [
        {"name": names.whole(point), "seed": f.seed, "reason": f.reason, "traceback": f.traceback}
        for point in points
        for f in point.failures
    ]


def files(point: Point, start: Path) -> dict[str, Any]:
    """Return the links to a run's folder, its files and its pictures."""
    names = [name for name in OWN_FILES if (point.path / name).is_file()]
    names += sorted(f"plots/{path.name}" for path in (point.path / "plots").glob("*.png"))
    at = link(point.path, start)
    return {"key": point.key, "link": f"{at}/", "files": [(name, f"{at}/{quote(name)}") for name in names]}
