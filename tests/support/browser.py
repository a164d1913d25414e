"""Pages in a real Chromium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
_QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser of the machine; the test is skipped where there is none."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no Chromium here: install one, or name it in the environment variable CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=_QUIET)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser, address: str, size: str, scheme: Any = "light"
) -> Iterator[tuple[Page, list[str]]]:
    """A page in a window of `SIZES`, and what it complained about or loaded besides itself."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if request.url != address else None)
    page.goto(address)
    try:
        yield page, complaints
    finally:
        context.close()


def expect_readable(page: Page, size: str) -> None:
    """Nothing wider than the window, no drawing blank, nothing that an automated accessibility check objects to."""
    width, _ = SIZES[size]
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    blank = page.evaluate(
        "[...document.querySelectorAll('svg')].filter(svg => svg.checkVisibility() && ![...svg.querySelectorAll("
        "'polyline, path, circle')].some(shape => shape.getBoundingClientRect().width > 1)).length"
    )
    assert blank == 0
    found = Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found] == []


def address_of(path: Path) -> str:
    return path.resolve().as_uri()
