"""The lecture's page as a student meets it: clicked, dragged, typed at, linked to, looked at."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from figures.lecture.build import write
from figures.lecture.presets import PRESETS
from tests.figures.browser import a_browser, a_tab

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DARK = {"color_scheme": "dark"}


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """Of the page, in a file."""
    path = tmp_path_factory.mktemp("lecture") / "lecture.html"
    write(path)
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for all tests here."""
    with a_browser() as found:
        yield found


@pytest.fixture
def tab(browser, address) -> Iterator[Any]:
    """The page, as it opens."""
    with a_tab(browser, address) as found:
        yield found


def stopped(tab: Any) -> Any:
    """The page with time at rest at the first step of its first claim."""
    if tab.evaluate("playing"):
        tab.click("#play")
    tab.evaluate("goTo(0)")
    shown(tab, 0)
    return tab


def shown(tab: Any, step: int) -> None:
    """Wait until a step is both computed and drawn."""
    tab.wait_for_function(f"document.getElementById('step').textContent === 'step {step}'")
    tab.wait_for_function("!awake")


def seen(tab: Any, what: str = "#bins") -> np.ndarray:
    """[H, W, 3] what a part of the page looks like."""
    picture = Image.open(io.BytesIO(tab.locator(what).screenshot()))
    return np.asarray(picture.convert("RGB"), dtype=int)


def place_of(tab: Any, peak: int) -> tuple[float, float]:
    """Where a bin is on the page."""
    box = tab.locator("#bins").bounding_box()
    left, right = tab.evaluate("[margin.left, margin.right]")
    inside = box["width"] - left - right
    return box["x"] + left + inside * (peak + 0.5) / 100, box["y"] + box["height"] / 2


def test_bins_move_before_anything_is_touched(tab):
    tab.wait_for_function("Math.round(state.at) > 3", timeout=30_000)
    assert (
        tab.evaluate(
            "Math.max(...frameOf(runs.b).probability.map((p, k) => Math.abs("
            "p - runs.b.frames[0].probability[k])))"
        )
        > 0.001
    )


def test_nobody_who_asked_for_less_motion_is_shown_any(browser, address):
    with a_tab(browser, address, reduced_motion="reduce") as tab:
        assert not tab.evaluate("playing")
        assert tab.locator("#step").text_content() == "step 0"


def test_play_pause_step_and_scrub(tab):
    stopped(tab)
    tab.click("#forth")
    tab.click("#forth")
    shown(tab, 2)
    tab.click("#back")
    shown(tab, 1)
    tab.click("#play")
    assert tab.locator("#play").get_attribute("aria-label") == "Pause"
    tab.wait_for_function("state.at > 5")
    tab.click("#play")
    tab.locator("#at").fill("150")
    shown(tab, 150)
    box = tab.locator("#reward-chart").bounding_box()
    tab.mouse.click(box["x"] + 40 + (box["width"] - 46) / 2, box["y"] + box["height"] / 2)
    tab.wait_for_function("Math.abs(state.at - 200) <= 1 && !awake")


def test_the_hill_follows_the_hand(tab):
    stopped(tab)
    before = seen(tab)
    tab.mouse.move(*place_of(tab, 70))
    tab.mouse.down()
    for peak in (60, 45, 20):
        tab.mouse.move(*place_of(tab, peak))
    tab.mouse.up()
    tab.mouse.move(*place_of(tab, 80))  # nothing follows a hand that has let go
    assert tab.evaluate("state.world.peak") == 20
    assert tab.locator("#peak").input_value() == "20"
    assert tab.locator("#claim").text_content() == "Your own settings."
    shown(tab, 0)
    assert (seen(tab) != before).any(axis=-1).mean() > 0.02
    tab.keyboard.press("End")
    shown(tab, 400)
    # Where the mass is goes with where the reward is.
    assert tab.evaluate("frameOf(runs.a).probability.slice(10, 31).reduce((x, y) => x + y)") > 0.5


def test_it_works_without_a_mouse(tab):
    stopped(tab)
    reached = set()
    for _ in range(60):
        tab.keyboard.press("Tab")
        found = tab.evaluate("document.activeElement.id")
        if found:
            reached.add(found)
            style = "getComputedStyle(document.activeElement).outlineStyle"
            assert tab.evaluate(style) != "none", f"nothing shows that {found} has the focus"
    controls = tab.evaluate(
        "[...document.querySelectorAll('input, select, button, [tabindex]')].map(({id}) => id)"
    )
    assert reached == set(controls)
    tab.locator("#bins").focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Shift+ArrowRight")
    shown(tab, 11)
    tab.keyboard.press("Space")
    assert tab.evaluate("playing")
    tab.keyboard.press("Space")
    assert not tab.evaluate("playing")
    tab.locator("#rate").focus()
    rate = tab.evaluate("state.world.rate")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("state.world.rate") > rate


def test_a_link_carries_everything(browser, address, tab):
    tab.keyboard.press("8")
    stopped(tab)
    tab.locator("#a-objective").select_option("DPO")
    tab.locator("#b-online").check()
    tab.locator("#b-every").fill("7")
    tab.locator("#peak").fill("33")
    tab.locator("#plain").check()
    tab.locator("#rate").press("End")
    tab.locator("#at").fill("40")
    shown(tab, 40)
    tab.wait_for_function("location.hash.includes('at=40')")
    wanted = tab.locator("#readouts").inner_text()
    with a_tab(browser, tab.url) as other:
        shown(other, 40)
        assert other.locator("#readouts").inner_text() == wanted
        assert other.evaluate("address()") == tab.evaluate("address()")
        assert not other.evaluate("playing")
    with a_tab(browser, f"{address}#a=Nonsense,x&rate=-3&peak=&at=1e9&b=DPO,99,1,-2,5") as odd:
        odd.wait_for_function("!awake")
        assert odd.evaluate("[state.a.name, state.b.number, state.b.every, state.b.groups]") == [
            PRESETS[0].a.name, 2, 1, 0,
        ]  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.id)
def test_a_claim_is_one_choice_and_one_link(browser, address, preset):
    with a_tab(browser, f"{address}#preset={preset.id}") as tab:
        assert tab.locator("#preset").input_value() == preset.id
        assert tab.locator("#claim").text_content() == preset.claim
        tab.wait_for_function("Math.round(state.at) > 1")
        stopped(tab)
        beginning = seen(tab)
        tab.locator("#at").fill("60")
        shown(tab, 60)
        now = seen(tab)
        assert (now != beginning).any(axis=-1).mean() > 0.002
        for who, colour in (("a", (178, 24, 43)), ("b", (0, 114, 178))):
            assert (abs(now - colour).sum(axis=-1) < 30).sum() > 100, f"{who} is not to be seen"
        for row, measure in enumerate(tab.evaluate("ROWS.map(([key]) => key)")):
            cells = tab.locator(f"#readouts tbody tr:nth-child({row + 1}) td").all_text_contents()
            frames = tab.evaluate(f"['a', 'b'].map((who) => runs[who].frames[60]['{measure}'])")
            assert cells == [f"{value:.3f}" for value in frames]


@pytest.mark.parametrize("about", [{}, DARK, PHONE, PHONE | DARK], ids=str)
def test_everybody_can_read_it(browser, address, about):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")
    with a_tab(browser, address, **about) as tab:
        stopped(tab)
        width = "[document.documentElement.scrollWidth, innerWidth]"
        needed, there = tab.evaluate(width)
        assert needed <= there, "it scrolls sideways"
        found = axe.Axe().run(tab).response["violations"]
        assert [(one["id"], one["impact"], one["help"]) for one in found] == []
        dark = "dark" if about.get("color_scheme") else "light"
        assert tab.evaluate("document.documentElement.dataset.theme") == dark
        tab.click("#theme")
        assert tab.evaluate("document.documentElement.dataset.theme") != dark
        again = axe.Axe().run(tab).response["violations"]
        assert [(one["id"], one["impact"], one["help"]) for one in again] == []
