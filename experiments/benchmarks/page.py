"""How soon is the lecture's page there, and how smoothly do its bins move?

Command: ``python -m experiments.benchmarks.page`` (with Playwright, and Chromium installed), about
a minute and a half on two idle cores. The page is opened from its file, without a cache, once for
every claim, and plays while Chromium's trace counts the pictures it really draws; software draws
them, because here there is no graphics card. Expect 60 a second, the first picture within a second.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.rounds import machine
from experiments.results import atomically

CLAIMS = "[...document.querySelectorAll('#preset option')].map(({value}) => value).filter(Boolean)"
WATCH = """
addEventListener("DOMContentLoaded", () => {
  const look = () => {
    if (document.getElementById("step").textContent === "step 0") requestAnimationFrame(look);
    else window.moved = performance.now();
  };
  look();
});
"""
"""Notes when the first bin has moved."""
TRACED = ("devtools.timeline", "disabled-by-default-devtools.timeline.frame")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time the lecture's page in Chromium."""

    seconds: float = 6.0
    """Of play that are traced, of the eight that a run takes."""
    rounds: int = 3
    """Times that every claim is opened."""
    chromium: str | None = None
    """The browser; whatever is installed if none is given."""
    out: Path = Path("reproduced/benchmarks/page.json")
    """Where the figures go."""


@contextmanager
def traced(session: Any) -> Iterator[list[dict[str, Any]]]:
    """The browser's own record of what happens inside."""
    events: list[dict[str, Any]] = []
    ended: list[bool] = []
    session.on("Tracing.dataCollected", lambda data: events.extend(data["value"]))
    session.on("Tracing.tracingComplete", lambda _: ended.append(True))
    session.send("Tracing.start", {"transferMode": "ReportEvents", "categories": ",".join(TRACED)})
    yield events
    session.send("Tracing.end")
    while not ended:
        session.send("Tracing.getCategories")  # what has been sent arrives with any answer


def opened(browser: Any, address: str, claim: str, seconds: float) -> dict[str, float]:
    """One opening of the page and what the trace says of it.

    Returns:
        ``first_view`` and ``first_moved_bin``, milliseconds from the navigation;
        ``pictures_per_second`` that were drawn; ``script``, milliseconds of the page's own work for
        a picture, in the median, and ``longest_script``.
    """
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    tab = context.new_page()
    tab.add_init_script(WATCH)
    session = context.new_cdp_session(tab)
    tab.goto(f"{address}#preset={claim}")
    tab.wait_for_function("window.moved")
    with traced(session) as events:
        tab.wait_for_timeout(seconds * 1000)
    paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    first, moved = tab.evaluate(f"[{paint}, window.moved]")
    context.close()
    drawn = sorted(event["ts"] for event in events if event["name"] == "DrawFrame")
    turns = [event for event in events if event["name"] == "FireAnimationFrame"]
    work = [event["dur"] / 1e3 for event in turns if "dur" in event]  # one may have been cut
    return {
        "first_view": first,
        "first_moved_bin": moved,
        "pictures_per_second": (len(drawn) - 1) / ((drawn[-1] - drawn[0]) / 1e6),
        "script": median(work),
        "longest_script": max(work),
    }


def main() -> None:
    """Time, print, save."""
    options = tyro.cli(Options, description=__doc__)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise SystemExit("Playwright is not installed: pip install playwright") from None
    chromium = options.chromium or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("No Chromium was found: install it, or name one by --chromium.")
    console, record = Console(), {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        path = Path(folder) / "lecture.html"
        line = [sys.executable, "-m", "modeseek", "lecture", "--out", str(path)]
        subprocess.run(line, check=True, capture_output=True)
        browser = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        about = machine() | {"chromium": browser.version, "bytes": path.stat().st_size}
        tab = browser.new_page()
        tab.goto(path.as_uri())
        claims = tab.evaluate(CLAIMS)
        tab.close()
        found: dict[str, list[dict[str, float]]] = {claim: [] for claim in claims}
        for count in range(options.rounds):
            for claim in claims:
                with console.status(f"{claim}, round {count + 1} of {options.rounds}"):
                    found[claim].append(opened(browser, path.as_uri(), claim, options.seconds))
        browser.close()
    record = {"machine": about, "claims": found}
    text = json.dumps(record, indent=1) + "\n"
    atomically(options.out, lambda path: path.write_text(text, encoding="utf-8"))

    table = Table(title="the lecture's page: medians over rounds, and the worst longest script")
    table.add_column("claim")
    headings = ("first view, ms", "first moved bin, ms", "pictures/s", "script, ms", "longest, ms")
    for heading in headings:
        table.add_column(heading, justify="right")
    for claim, rounds in found.items():
        of = {key: [one[key] for one in rounds] for key in rounds[0]}
        table.add_row(
            claim,
            f"{median(of['first_view']):.0f}",
            f"{median(of['first_moved_bin']):.0f}",
            f"{median(of['pictures_per_second']):.1f}",
            f"{median(of['script']):.1f}",
            f"{max(of['longest_script']):.1f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
