"""Take a picture of a page of `ltx report` as a browser shows it, with chromium and selenium.

    python scripts/page.py outputs/report.html docs/page.png           # as wide as a laptop's window, from the top
    python scripts/page.py outputs/report.html dark.png --dark --width 400 --height 0    # 0: the whole page

Without chromium and chromedriver on the PATH it says so.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
READY = "return document.readyState === 'complete' && (!window.Bokeh || Bokeh.documents.every((d) => d.is_idle))"


@contextmanager
def browser() -> Iterator[Any]:
    """Start chromium with an empty profile and yield what drives it."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = Chrome(options, ChromeService(shutil.which("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()


def emulate(driver: Any, dark: bool = False, width: int = 1280, height: int = 900, scale: float = 1) -> None:
    """Let the browser prefer a scheme of colours, and have a window of this size."""
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def visit(driver: Any, page: Path) -> None:
    """Open a page and wait until its pictures are drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get(page.resolve().as_uri())
    WebDriverWait(driver, 30).until(lambda it: it.execute_script(READY))


def picture(driver: Any, height: int = 0) -> bytes:
    """Return a PNG of the page from its top, as high as the whole page for 0."""
    size = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"], "scale": 1}
    asked = {"format": "png", "captureBeyondViewport": True, "clip": clip}
    return base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", asked)["data"])


def main(words: list[str]) -> None:
    """Take the picture that the words ask for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("page", type=Path)
    parser.add_argument("to", type=Path)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1600)
    parser.add_argument("--scale", type=float, default=1)
    asked = parser.parse_args(words)
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        sys.exit("chromium and chromedriver are not on the PATH")
    with browser() as driver:
        emulate(driver, asked.dark, asked.width, scale=asked.scale)
        visit(driver, asked.page)
        asked.to.write_bytes(picture(driver, asked.height))


if __name__ == "__main__":
    main(sys.argv[1:])
