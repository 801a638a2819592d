"""A real browser without a window, for the tests of what is looked at."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = (
    "--no-sandbox",  # it may be root who tests
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def a_browser() -> Iterator[Any]:
    """Chromium, driven by Playwright; the test skips where either is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=list(QUIET))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def a_tab(browser: Any, address: str, **about: Any) -> Iterator[Any]:
    """A tab with a page in it; afterwards it must neither have failed nor asked for anything else.

    Args:
        browser: of ``a_browser``.
        address: of the page.
        about: for Playwright's ``new_context``, such as ``viewport``.
    """
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | about)
    tab = context.new_page()
    errors: list[str] = []
    asked: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    tab.on("request", lambda request: asked.append(request.url.partition("#")[0]))
    try:
        tab.goto(address)
        yield tab
        assert errors == []
        assert set(asked) == {address.partition("#")[0]}
    finally:
        context.close()
