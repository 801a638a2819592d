"""The lecture's page: its numbers are the library's, and it needs nothing but itself."""

import json
import re
import shutil
import socket
import subprocess
import threading
import urllib.request
from dataclasses import asdict
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from figures.lecture.build import HERE, page, write
from figures.lecture.presets import IDEALS, PRESETS, Policy, World, recipe_of
from modeseek import lecture
from tests.figures.browser import a_browser, a_tab
from tests.figures.lecture_library import (
    EVERY,
    MEASURES,
    STEPS,
    cases,
    expected,
    towards_the_optimum,
)

SIZE = 1.5e6
"""Bytes of the page at most."""


def method_of(policy: Policy) -> dict[str, Any]:
    """As page.js makes it."""
    number = {"IPO": "tau", "SLiC": "margin"}.get(policy.name, "beta")
    penalised = policy.name in ("REINFORCE", "PPO")
    objective: dict[str, Any] = {"name": policy.name}
    if policy.number is not None and not penalised:
        objective[number] = policy.number
    if policy.name == "REINFORCE":
        objective["advantage"] = "leave_one_out"
    if policy.name == "PPO":
        objective |= {"advantage": "group_zscore", "floor": 0.05, "low": 0.2, "high": 0.2}
    return {
        "objective": objective,
        "online": policy.online,
        "every": policy.every,
        "groups": policy.groups,
        "klInReward": policy.number if penalised else 0,
    }


def asked(world: World, policy: Policy, every: int = EVERY, steps: int = STEPS) -> dict[str, Any]:
    """A run of the engine."""
    about = asdict(world) | {"bins": 100}
    rate = about.pop("rate")
    return {
        "world": about,
        "method": method_of(policy),
        "rate": rate,
        "steps": steps,
        "every": every,
    }


def run_engine(runs: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """What the page's engine records."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node, which runs the page's engine here, is not installed")
    done = subprocess.run(
        [node, "tests/figures/engine_runs.js", str(HERE / "engine.js")],
        input=json.dumps({"runs": runs}),
        capture_output=True,
        text=True,
        cwd=HERE.parents[1],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def address_of(world: World, policy: Policy) -> str:
    """What the page's address says of a policy, as B."""
    said = [policy.name, policy.number or "", int(policy.online), policy.every, policy.groups]
    parts = asdict(world) | {"plain": int(world.plain), "b": ",".join(map(str, said)), "at": STEPS}
    return "#" + "&".join(f"{key}={value}" for key, value in parts.items())


def in_the_page(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Records of every case, by the page itself: claims by their digit, the rest by an address."""
    write(path)
    claims = [preset.id for preset in PRESETS]
    found = {}
    with a_browser() as browser, a_tab(browser, path.as_uri()) as tab:
        for name, (world, policy) in cases().items():
            claim, _, who = name.rpartition(" ")
            if claim in claims and who in ("a", "b"):
                tab.keyboard.press(str(claims.index(claim) + 1))
                tab.wait_for_function(f"state.preset === {claim!r}")
            else:
                who = "b"
                tab.evaluate(
                    """(hash) => new Promise((done) => {
                      addEventListener("hashchange", done, {once: true});
                      location.hash = hash;
                    })""",
                    address_of(world, policy),
                )
            tab.wait_for_function(f"runs.{who}.done >= {STEPS}")
            found[name] = tab.evaluate(
                """([who, steps]) => steps.map((n) => runs[who].frames[n])
                .map((frame) => ({...frame, probability: Array.from(frame.probability)}))""",
                [who, list(range(0, STEPS + 1, EVERY))],
            )
    return found


@pytest.fixture(scope="module", params=["node", "chromium"])
def records(request, tmp_path_factory) -> dict[str, list[dict[str, Any]]]:
    """Records of every case, by the engine alone or in the page."""
    if request.param == "chromium":
        return in_the_page(tmp_path_factory.mktemp("lecture") / "lecture.html")
    runs = run_engine([asked(*case) for case in cases().values()])
    return dict(zip(cases(), runs, strict=True))


@pytest.mark.parametrize("name", list(cases()))
def test_the_numbers_of_the_page_are_those_of_the_library(records, name):
    for found, wanted in zip(records[name], expected(name), strict=True):
        for key in MEASURES:
            np.testing.assert_allclose(found[key], wanted[key], rtol=1e-6, atol=1e-6, err_msg=key)


def test_pairs_that_are_drawn_come_near_all_of_them_and_come_again():
    runs = [
        asked(World(), Policy(name="IPO", number=0.1, groups=groups), every=STEPS)
        for groups in (0, 30000, 30, 30)
    ]
    every, many, few, again = (records[-1] for records in run_engine(runs))
    assert few == again != every
    np.testing.assert_allclose(many["reward"], every["reward"], atol=0.02)
    assert abs(few["reward"] - every["reward"]) > 0.02


def test_the_page_is_one_file_that_asks_for_no_other():
    text = page()
    assert len(text.encode()) < SIZE
    assert not re.search(r"https?://|src=|@import|url\(|fetch\(|XMLHttpRequest", text)
    assert "/*" + "ENGINE*/" not in text and "/*" + "PRESETS*/null" not in text
    for preset in PRESETS:
        assert preset.title in text and preset.claim in text


def test_every_claim_has_a_name_of_its_own_and_policies_of_the_library():
    assert len({preset.id for preset in PRESETS}) == len(PRESETS) <= 9
    for preset in PRESETS:
        for policy in (preset.a, preset.b):
            if policy.name not in IDEALS:
                assert recipe_of(policy).on_policy == policy.online
    with pytest.raises(ValueError, match="ForwardKL is no recipe"):
        recipe_of(Policy(name="ForwardKL"))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("who", "ideal"), [("a", "ReverseKL"), ("b", "ForwardKL")])
def test_the_two_ways_to_one_optimum_are_the_two_divergences(who, ideal):
    preset = next(one for one in PRESETS if one.id == "same-optimum")
    found = expected(f"same-optimum {who}")[-1]["probability"]
    wanted = towards_the_optimum(preset.world, Policy(name=ideal))[-1]["probability"]
    # Adam knows no scale but that of its epsilon.
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_server_hands_out_the_page_and_nothing_else(monkeypatch):
    opened: list[str] = []

    def look(address: str) -> None:
        for path in ("", "pyproject.toml"):
            with urllib.request.urlopen(address + path) as answer:
                opened.append(answer.read().decode())
        raise KeyboardInterrupt

    # Whoever serves waits for the browser here, so another thread answers it.
    class Served(ThreadingHTTPServer):
        def server_activate(self) -> None:
            super().server_activate()
            threading.Thread(target=self.serve_forever, daemon=True).start()

    monkeypatch.setattr("http.server.ThreadingHTTPServer", Served)
    monkeypatch.setattr("webbrowser.open", look)
    with pytest.raises(KeyboardInterrupt):
        lecture.serve(b"the page", 0, Console(quiet=True))
    assert opened == ["the page", "the page"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"--port {port} cannot be had"):
            lecture.serve(b"", port, Console(quiet=True))


def test_the_claims_are_what_the_page_shows():
    runs = {(one.id, who): (one.world, getattr(one, who)) for one in PRESETS for who in "ab"}
    ran = run_engine([asked(*run, every=100, steps=400) for run in runs.values()])
    of = dict(zip(runs, ran, strict=True))

    def lead(claim: str, measure: str, after: int = 4) -> float:
        return of[claim, "a"][after][measure] - of[claim, "b"][after][measure]

    assert lead("negative-gradient", "reward") > 0.3
    assert lead("on-policy", "reward") > max(0.3, 2 * lead("near-peak", "reward"))
    assert lead("reuse", "reward", after=1) > 0.1
    assert lead("bounded", "reverse_kl") > 0
    # Thirty pairs pile mass up on the last bin.
    assert of["few-pairs", "b"][-1]["probability"][-1] > 0.5


def test_the_command_writes_it_and_says_where(tmp_path, capsys):
    out = tmp_path / "there" / "page.html"
    lecture.main(["--out", str(out)])
    assert out.read_text(encoding="utf-8") == page()
    assert "written" in capsys.readouterr().out
    write(out)
    with pytest.raises(SystemExit):
        lecture.main(["--out", str(tmp_path)])
    assert "Value error" in capsys.readouterr().err
