"""The page of a report: its numbers are those of the store, its texts are only texts, and it needs nothing else."""

from __future__ import annotations

import errno
import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result
from pages import STEPS, Seen, swept, write_run, write_sweep

from ltx.report.page_charts import charts, maps
from ltx.report.page_data import MOST_STEPS, of_all, of_runs, of_sweep, thinned
from ltx.store.files import commit
from ltx.store.sweeps import SweepFolder
from ltx.store.tags import write_tags

Ltx = Callable[..., Result]

EVIL = "</script></pre></td><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(autouse=True)
def whole(pages: None) -> None:
    """Write whole pages."""


def seen(path: Path) -> Seen:
    return Seen(path.read_text())


def test_the_table_has_the_mean_and_interval_of_the_planted_seeds(ltx: Ltx, root: Path) -> None:
    place = swept(root)
    write_tags(root / "runs" / "imp-lenet-digits-w1-a0000001", ["good"])
    result = ltx("report", "mine")
    assert result.code == 0 and result.out == f"page:  {place / 'report.html'}\n"
    lines = seen(place / "report.html").table("run", "test accuracy")
    assert [(line["method"], line["width"]) for line in lines[:2]] == [("imp", "0.5"), ("edge_popup", "0.5")]
    imp, search = lines[2], lines[3]
    # Both methods at about half the weights, so IMP at its level 1; t(0.975, 2 degrees of freedom) = 4.3027.
    half = 4.302653 * 0.02 / math.sqrt(3)
    assert imp["level"] == "1" and imp["test accuracy"] == "0.8000 [0.8000, 0.8000]" and imp["density"] == "50.00 %"
    assert search["level"] == "0" and search["test accuracy"] == f"0.8200 [{0.82 - half:.4f}, {0.82 + half:.4f}]"
    assert imp["state"] == "done" and imp["tags"] == "good" and search["tags"] == ""
    assert imp["early stop"] == "20 [20, 20]"
    assert imp["minutes"] == "0.60" and search["minutes"] == "0.30"  # 6 s a level, 3 seeds


def test_every_link_of_a_page_leads_to_a_file_beside_it(ltx: Ltx, root: Path, tmp_path: Path) -> None:
    place = swept(root)
    far = tmp_path / "far" / "all.html"
    for word, page in (("mine", place / "report.html"), (f"out={far}", far)):
        assert ltx("report", word).code == 0
        found = seen(page)
        links = [a["href"] for a in found.all("a")]
        outside = [link for link in links if not link.startswith("#")]
        assert len(outside) >= 12 and all((page.parent / link).exists() for link in outside)
        assert {link[1:] for link in links if link.startswith("#")} <= {e.get("id") for _, e in found.elements}
        assert not found.all("link") and all(i["src"].startswith("data:image/") for i in found.all("img"))
        assert not any("src" in script for script in found.all("script"))


def test_accuracy_stands_against_width_and_against_density(root: Path) -> None:
    against, density, loss, accuracy = charts(of_sweep(SweepFolder(swept(root))))
    assert [line.name for line in against.panels[0].lines] == ["IMP", "edge-popup"]
    imp, search = against.panels[0].lines
    assert [*imp.xs] == [0.5, 1, 2] and [y.mean for y in imp.ys] == pytest.approx([0.8] * 3)
    assert [y.mean for y in search.ys] == pytest.approx([0.72, 0.82, 0.92])
    (panel,) = density.panels  # edge-popup has no levels to draw a line through
    assert panel.heading == "IMP" and [line.name for line in panel.lines] == ["width 0.5", "width 1", "width 2"]
    assert [*panel.lines[2].xs] == [100, 50] and [y.mean for y in panel.lines[2].ys] == pytest.approx([0.94, 0.8])
    assert "level 1, 50.00 % kept: 0.8000" in panel.lines[2].notes[1]
    assert [panel.heading for panel in loss.panels] == ["IMP", "edge-popup"] == [p.heading for p in accuracy.panels]
    assert [*loss.panels[0].lines[0].xs] == [*STEPS]
    assert [y.mean for y in loss.panels[0].lines[0].ys] == pytest.approx([1 / step for step in STEPS])
    assert [y.mean for y in accuracy.panels[1].lines[2].ys] == pytest.approx([0.92] * 4)


def test_a_mean_that_is_no_number_has_no_mark(root: Path) -> None:
    folder = write_run(root, "imp-lenet-digits-w1-a0000000", [[0.9, math.nan, 0.7], [0.8, 0.7, 0.6]])
    density = charts(of_runs([folder.path], root, "one"))[0]
    assert [*density.panels[0].lines[0].xs] == [100, 25] and density.panels[0].xs == [25, 100]


def test_one_run_has_the_learning_curve_of_each_level(root: Path) -> None:
    folder = write_run(root, "imp-lenet-digits-w1-a0000000", [[0.9, 0.8, 0.7], [0.8, 0.7, 0.6]])
    density, loss, accuracy = charts(of_runs([folder.path], root, "one"))
    assert [line.name for line in loss.panels[0].lines] == ["level 0", "level 1", "level 2"]
    assert [line.ys[0].mean for line in accuracy.panels[0].lines] == pytest.approx([0.85, 0.75, 0.65])
    assert [*density.panels[0].lines[0].xs] == [100, 50, 25]


def test_a_map_has_the_density_of_each_layer_at_each_level(ltx: Ltx, root: Path) -> None:
    write_run(root, "imp-lenet-digits-w1-a0000000", [[0.9, 0.8, 0.7]])
    (found,) = maps(of_all(root))
    assert found.layers == ["fc1", "fc2"] and [*found.levels] == [0, 1, 2]
    assert found.densities == [[1, 0.25, 0.125], [1, 0.5, 0.25]]
    assert ltx("report").code == 0
    (shown,) = [e for _, e in seen(root / "report.html").elements if e.get("class") == "map"]
    assert json.loads(shown["data-densities"]) == [[100, 25, 12.5], [100, 50, 25]]


def test_a_long_curve_is_thinned_evenly_and_keeps_its_ends() -> None:
    steps = [*range(0, 1000, 2)]
    found = thinned(steps)
    assert len(found) == MOST_STEPS and (found[0], found[-1]) == (0, 998)
    assert {b - a for a, b in itertools.pairwise(found)} <= {20, 22}
    assert thinned(steps[:MOST_STEPS]) == steps[:MOST_STEPS]


def test_texts_from_files_stay_texts(ltx: Ltx, root: Path) -> None:
    keys = [f"imp-lenet-digits-w{i}-a000000{i}" for i in (1, 2)]
    labels = [{"method": "imp", EVIL: f"{EVIL}{i}", "width": i} for i in (1, 2)]
    place = write_sweep(root, {key: (label, [[0.9, 0.8]]) for key, label in zip(keys, labels, strict=True)})
    run = root / "runs" / keys[0]
    commit(run / "seed_000" / "failed.json", json.dumps({"reason": EVIL, "traceback": f"first\n{EVIL}"}).encode())
    manifest = json.loads((run / "manifest.json").read_text())
    manifest |= {"versions": {EVIL: EVIL}, "machine": EVIL, "commands": [{"command": [EVIL], "time": EVIL}]}
    commit(run / "manifest.json", json.dumps(manifest).encode())
    plain = ltx("report", str(place))
    assert plain.code == 0
    found = seen(place / "report.html")  # an element that a text has closed too early would not be closed in order
    assert not found.open[2:] and not any("onerror" in element for _, element in found.elements)
    kinds = [script.get("type") for script in found.all("script")]
    assert kinds == ["application/json"] * (len(kinds) - 2) + [None, None] and len(kinds) >= 4
    data = [text for text in found.within("script") if text.startswith("{")]
    assert len(data) == len(kinds) - 2 and any(EVIL in json.dumps(json.loads(text)) for text in data)
    assert EVIL in "".join(found.within("pre")) and EVIL in "".join(found.within("p"))
    assert f"{EVIL}1" in {cell for row in found.rows for cell in row}
    page = (place / "report.html").read_text()
    assert page.count("alert(1)") > 5 and "<script>alert" not in page and "<img src=x" not in page


def test_only_the_two_scripts_of_the_page_may_run_and_nothing_be_fetched(ltx: Ltx, root: Path) -> None:
    assert ltx("report", str(swept(root))).code == 0
    found = seen(root / "sweeps" / "mine-01234567" / "report.html")
    (policy,) = [meta["content"] for meta in found.all("meta") if meta.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src data:; ") and "connect-src" not in policy
    (allowed,) = re.findall("script-src ([^;]*)", policy)
    assert len(allowed.split()) == 2 and all(word.startswith("'sha256-") for word in allowed.split())


def test_what_is_damaged_is_named_and_left_out(ltx: Ltx, root: Path) -> None:
    place = swept(root)
    run = root / "runs" / "edge_popup-lenet-digits-w1-b0000001"
    level = run / "seed_001" / "level_00.safetensors"
    level.write_bytes(level.read_bytes()[:-40])
    (run / "manifest.json").write_text("{")
    (root / "runs" / "imp-lenet-digits-w1-a0000001" / "tags.json").write_text("[]")
    result = ltx("report", "mine")
    assert result.code == 0
    assert all(f"{path}" in result.err for path in (level, run / "manifest.json", "tags.json"))
    line = seen(place / "report.html").table("run", "test accuracy")[3]
    assert line["n"] == "2" and line["test accuracy"].startswith("0.8200 [")


def test_failures_stand_there_with_their_traceback(ltx: Ltx, root: Path) -> None:
    run = write_run(root, "imp-lenet-digits-w1-a0000000", [[0.9, 0.8], [0.9]])
    failure = {"kind": "raised", "reason": "ValueError: no", "traceback": "Traceback\n  line 3\nValueError: no"}
    commit(run.seed(1).failure_path, json.dumps(failure).encode())
    manifest = json.loads((run.path / "manifest.json").read_text())
    commit(run.path / "manifest.json", json.dumps({**manifest, "asked": [{"seeds": [0, 1], "last_level": 1}]}).encode())
    assert ltx("report", "a0000000").code == 0
    found = seen(root / "report.html")
    assert failure["traceback"] in "".join(found.within("pre"))
    assert "0 of 1 done, 1 failed" in found.within("dd")
    assert found.table("run", "test accuracy")[0]["state"] == "failed"


def test_a_page_tells_with_what_the_runs_were_made(ltx: Ltx, root: Path) -> None:
    swept(root)
    assert ltx("report", "a0000000", "b0000001").code == 0
    found = seen(root / "report.html")
    said = " ".join(found.within("dd"))
    assert "torch 9.8.7" in said and "c0ffee" in said and "2 of 2 runs" in found.within("h3")
    assert found.table("time (UTC)", "command")[0]["time (UTC)"] == "2026-01-02T03:04:05Z"
    costs = found.table("run", "seconds a level")
    assert [line["seconds a level"] for line in costs] == ["6.00", "6.00"] and costs[0]["levels trained"] == "6"
    assert all(float(line["MB of disk"]) > 0 for line in costs)


def test_a_point_that_has_not_begun_is_on_the_page_of_its_sweep(ltx: Ltx, root: Path) -> None:
    place = swept(root)
    told = json.loads((place / "sweep.json").read_text())
    label = {"method": "imp", "width": 4}
    told["points"].append({"run": "imp-lenet-digits-w4-cccccccc", "label": label, "seeds": [0], "last_level": 1})
    commit(place / "sweep.json", json.dumps(told).encode())
    assert ltx("report", "experiment=mine").code == 0
    found = seen(place / "report.html")
    line = found.table("run", "test accuracy")[-1]
    assert line["state"] == "unfinished" and line["test accuracy"] == "-" and line["minutes"] == "-"
    assert "6 of 7 done, 1 unfinished" in found.within("dd")


def test_a_figure_has_its_picture_and_its_claims(ltx: Ltx, root: Path) -> None:
    swept(root)
    claim = {
        "statement": f"wider is better \ud800 {EVIL}",
        "source": "us",
        "effect": 0.25,
        "interval": [0.1, 0.4],
        "n": 3,
    }
    claims = [{**claim, "planned": 3, "threshold": 0, "verdict": "passed"}, {"verdict": EVIL, "effect": "high"}]
    runs = {"IMP, narrow": "imp-lenet-digits-w0.5-a0000000", "evil": "../../etc"}
    told = {"figure": "imp", "source": "a paper", "runs": runs, "claims": claims}
    commit(root / "figures" / "imp.json", json.dumps(told).encode())
    commit(root / "figures" / "imp.png", b"\x89PNG\r\n\x1a\nrest")
    result = ltx("report", "figure", "imp")
    assert result.code == 0 and result.out == f"page:  {root / 'figures' / 'imp.html'}\n"
    found = seen(root / "figures" / "imp.html")
    first, second = found.table("claim", "verdict")
    assert first["verdict"] == "passed" and first["effect [95 %]"] == "0.25 [0.1, 0.4]" and second["verdict"] == "-"
    (picture,) = [image["src"] for image in found.all("img") if image["alt"] == "Figure imp"]
    assert picture.startswith("data:image/png;base64,iVBOR")
    assert [line["run"] for line in found.table("run", "test accuracy")] == ["a0000000"]


def test_bad_words_are_refused_before_anything_is_written(ltx: Ltx, root: Path) -> None:
    empty = ltx("report")
    assert empty.code == 2 and "There are no runs under" in empty.err and "ltx run" in empty.err and not root.exists()
    swept(root)
    for words, said in (
        (["mind"], "did you mean 'mine'"),
        (["experiment=mind"], "did you mean 'mine'"),
        (["experiment=mine", "mine"], "stands alone; leave out mine"),
        (["figure", "tale"], "did you mean 'tail'"),
        (["figure"], "takes one NAME"),
        (["figure", "tail"], "`ltx figure tail` makes it"),
        (["mine", "out=table.csv"], "ends in .html"),
        (["mine", "out=/proc/none/page.html"], "out=/proc/none/page.html cannot be used: /proc"),
        (["mine", "outt=a.html"], "did you mean 'out'"),
        (["--json"], "--json is not a flag"),
    ):
        result = ltx("report", *words)
        assert result.code == 2 and said in result.err, words
    commit(root / "figures" / "tail.json", b"{")
    assert "`ltx figure tail` makes it anew" in ltx("report", "figure", "tail").err
    assert not [*root.rglob("*.html"), *Path.cwd().iterdir()]
    Path("notes").write_text("mine")
    result = ltx("report", "mine", "out=notes/page.html")
    assert result.code == 2 and "is not a folder" in result.err and Path("notes").read_text() == "mine"


def test_a_page_that_cannot_be_written_is_said_in_one_sentence(
    ltx: Ltx, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept(root)

    def full(*_: object) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ltx.report.page.commit", full)
    result = ltx("report", "mine")
    assert result.code == 3 and "report.html could not be written: No space left on device." in result.err
    assert len(result.err.splitlines()) == 1


def test_a_sweep_ends_with_its_page_unless_it_is_not_wanted(
    ltx: Ltx, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("run", "-m", "width=.05,.1", "method=dense", "optim.steps=10", "seeds=1")
    result = ltx(*words)
    (place,) = (root / "sweeps").glob("sweep-*")
    assert result.code == 0 and result.out.splitlines()[-1] == f"page:  {place / 'report.html'}"
    found = seen(place / "report.html")
    assert [line["width"] for line in found.table("run", "test accuracy")] == ["0.05", "0.1"]
    assert "2 of 2 done" in found.within("dd")
    (place / "report.html").unlink()
    assert "page:" not in ltx(*words, "report=false").out and not (place / "report.html").exists()

    def full(*_: object) -> str:
        raise OSError("No space left on device")

    monkeypatch.setattr("ltx.report.page.page", full)
    result = ltx(*words)
    assert result.code == 3 and "the sweep's files could not be written (No space left" in result.err
