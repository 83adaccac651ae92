"""The page of a report in a browser: it sorts, filters, shows values, follows the scheme, and asks for nothing."""

from __future__ import annotations

import base64
import io
import json
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REAL_PAGE
from pages import swept
from PIL import Image

from ltx.report.page_data import of_sweep
from ltx.store.files import commit
from ltx.store.sweeps import SweepFolder

pytest.importorskip("selenium", reason="selenium is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="chromium and chromedriver are not on the PATH",
    ),
]
SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "page.py"))
# Where the mark of IMP at width 1 stands in the window, and what tips there are.
MARK = """
const host = document.getElementById("by-x-0");
host.scrollIntoView({block: "center"});
const view = [...Bokeh.index.roots].find((root) => host.contains(root.el));
const at = view.canvas_view.el.getBoundingClientRect();
return [at.x + view.frame.x_scale.compute(1), at.y + view.frame.y_scale.compute(0.8)];
"""
TIPS = """
const texts = [];
const look = (node) => node.querySelectorAll("*").forEach((element) => {
  if (element.classList.contains("bk-Tooltip")) texts.push(element.shadowRoot?.textContent ?? element.textContent);
  if (element.shadowRoot) look(element.shadowRoot);
});
look(document);
return texts.join("\\n");
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a sweep of two methods at three widths."""
    place = swept(tmp_path_factory.mktemp("pages"))
    commit(place / "report.html", REAL_PAGE(of_sweep(SweepFolder(place)), place / "report.html").encode())
    return place / "report.html"


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """Start the browser once."""
    with SCRIPT["browser"]() as found:
        yield found


@pytest.fixture
def shown(driver: Any, page: Path) -> Any:
    """Open the page anew, in the light scheme."""
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    SCRIPT["emulate"](driver)
    driver.get_log("performance"), driver.get_log("browser")
    SCRIPT["visit"](driver, page)
    return driver


def column(driver: Any, name: str) -> list[str]:
    """Return the cells of a column of the points that are shown, from the top."""
    script = """
    const table = document.getElementById("points");
    const at = [...table.tHead.rows[0].cells].findIndex((head) => head.textContent === arguments[0]);
    return [...table.tBodies[0].rows].filter((row) => row.offsetParent).map((row) => row.cells[at].textContent);
    """
    return driver.execute_script(script, name)


def pixels(driver: Any, selector: str) -> set[tuple[int, ...]]:
    """Return the colours that an element has in a picture of the page."""
    box = driver.execute_script(
        """
    const box = document.querySelector(arguments[0]).getBoundingClientRect();
    return {x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height, scale: 1};
    """,
        selector,
    )
    asked = {"format": "png", "captureBeyondViewport": True, "clip": box}
    shot = Image.open(io.BytesIO(base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", asked)["data"])))
    return {colour for _, colour in shot.convert("RGB").getcolors(1 << 24)}


def test_the_page_is_drawn_without_an_error_and_asks_for_nothing_else(shown: Any, page: Path) -> None:
    assert shown.execute_script("return Bokeh.documents.length") == 6
    assert shown.execute_script("return [...document.images].every((image) => image.complete && image.naturalWidth)")
    assert [line for line in shown.get_log("browser") if line["level"] in ("SEVERE", "WARNING")] == []
    events = [json.loads(line["message"])["message"] for line in shown.get_log("performance")]
    urls = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert page.resolve().as_uri() in urls
    assert {url for url in urls if not url.startswith(("data:", "chrome:"))} == {page.resolve().as_uri()}


def test_the_page_fits_a_laptop_and_a_telephone(shown: Any) -> None:
    for width in (1280, 400):
        SCRIPT["emulate"](shown, width=width)
        assert shown.execute_script("return document.documentElement.scrollWidth") == width


def test_a_click_on_a_heading_sorts_and_a_second_one_turns_it_round(shown: Any) -> None:
    (head,) = [h for h in shown.find_elements("css selector", "#points th button") if h.text == "test accuracy"]
    head.click()
    means = [float(text.split()[0]) for text in column(shown, "test accuracy")]
    assert means == sorted(means) and len(set(means)) > 2
    head.click()
    assert [float(text.split()[0]) for text in column(shown, "test accuracy")] == sorted(means, reverse=True)


def test_the_filter_narrows_by_words_and_by_values(shown: Any) -> None:
    field = shown.find_element("id", "filter")
    for typed, methods, widths in (
        ("edge", ["edge_popup"] * 3, ["0.5", "1", "2"]),
        ("width=1.0", ["imp", "edge_popup"], ["1", "1"]),
        ("width=1,2 imp", ["imp", "imp"], ["1", "2"]),
        ("state=failed", [], []),
        ("", ["imp", "edge_popup"] * 3, ["0.5", "0.5", "1", "1", "2", "2"]),
    ):
        field.clear()
        field.send_keys(typed or " ")
        assert (column(shown, "method"), column(shown, "width")) == (methods, widths), typed
    field.clear()
    field.send_keys("edge")
    assert shown.find_element("id", "shown").text == "3 of 6 points"


def test_a_mark_says_its_values_when_the_mouse_is_on_it(shown: Any) -> None:
    assert "0.8000" not in shown.execute_script(TIPS)
    x, y = shown.execute_script(MARK)
    for place in (x - 40, x):
        shown.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": place, "y": y})
    from selenium.webdriver.support.ui import WebDriverWait

    said = WebDriverWait(shown, 10).until(lambda it: it.execute_script(TIPS))
    assert "IMP" in said and "0.8000 [0.8000, 0.8000], n = 3, 50.00 % kept" in said


def test_the_dark_scheme_turns_the_page_and_its_pictures_round(shown: Any) -> None:
    white, grid, ground = (255,) * 3, (232,) * 3, (29,) * 3
    assert white in pixels(shown, "h1") and {white, grid} <= pixels(shown, "#by-x-0")
    SCRIPT["emulate"](shown, dark=True)
    assert ground in pixels(shown, "h1") and white not in pixels(shown, "h1")
    dark = pixels(shown, "#by-x-0")
    assert ground in dark and not {white, grid} & dark


def test_pictures_and_all_rows_are_there_without_scripts(driver: Any, page: Path) -> None:
    SCRIPT["emulate"](driver)
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    driver.get(page.resolve().as_uri())
    try:
        coloured = {c for c in pixels(driver, "#by-x .still img") if max(c) - min(c) > 100}
        assert (0, 114, 178) in coloured  # the blue of IMP's line
        assert "bokeh" not in driver.execute_script("return document.getElementById('by-x-0').innerHTML")
        assert len(driver.find_elements("css selector", "#points tbody tr")) == 6
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
