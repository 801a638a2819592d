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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from bandit import Problem, bump, simulate_exactly, squashed_cauchy
from bandit.simulate import Trace
from bandit.theory import forward_kl_velocity, reverse_kl_velocity
from figures.lecture.build import HERE, page, write
from figures.lecture.presets import IDEALS, PRESETS, Policy, World, recipe_of
from modeseek import lecture
from objectives import entropy, forward_kl, reverse_kl

STEPS, EVERY = 60, 20
MEASURES = [name for name in Trace.__annotations__ if name not in ("step", "samples")]
SIZE = 1.5e6
"""Bytes of the page at most."""

OTHERS = {
    # Where pairs reach the margin, rounding decides on which side of the kink they are.
    "a hinge": Policy(name="SLiC", number=3.0),
    "thumbs": Policy(name="KTO", number=0.1),
    "clipped, and stale": Policy(name="PPO", number=0.01, online=True, every=7),
    "online DPO, stale": Policy(name="DPO", number=0.3, online=True, every=5),
    "online weights": Policy(name="RWR", number=0.2, online=True),
}
"""Of every other objective one."""


def cases() -> dict[str, tuple[World, Policy]]:
    """Every policy of a claim that sees all pairs, and one of each objective besides."""
    shown = {
        f"{preset.id} {who}": (preset.world, getattr(preset, who))
        for preset in PRESETS
        for who in ("a", "b")
    }
    found = {name: case for name, case in shown.items() if not case[1].groups}
    descent = World(plain=True, rate=2.0)
    # SFT begins where it ends; Adam would make steps of what rounding leaves of its gradient.
    plain = {"descent": Policy(name="DPO", number=0.3), "imitation": Policy(name="SFT")}
    found |= {name: (descent, policy) for name, policy in plain.items()}
    return found | {name: (World(), policy) for name, policy in OTHERS.items()}


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


@pytest.fixture(scope="module")
def engine() -> dict[str, list[dict[str, Any]]]:
    """Records of every case."""
    return dict(zip(cases(), run_engine([asked(*case) for case in cases().values()]), strict=True))


def problem_of(world: World) -> Problem:
    """The library's world of the page's."""
    return Problem(
        ref_logp=squashed_cauchy(100, world.location, world.scale),
        reward=bump(world.peak, world.width),
    )


RUN = jax.jit(simulate_exactly, static_argnames=("steps", "record_every", "optimizer"))
"""Compiled once for all recipes that differ in numbers alone."""


def trained(world: World, policy: Policy, steps: int, every: int) -> Trace:
    """The library's run of the page's."""
    return RUN(
        recipe_of(policy),
        problem_of(world),
        steps=steps,
        learning_rate=world.rate,
        record_every=every,
        beta_star=world.beta_star,
        optimizer=optax.sgd(world.rate) if world.plain else None,
    )


def towards_the_optimum(world: World, policy: Policy) -> list[dict[str, Any]]:
    """Adam along the velocity of a divergence, by the library's functions."""
    problem = problem_of(world)
    target, ref_logp = problem.optimum(world.beta_star), problem.ref_logp
    velocity = forward_kl_velocity if policy.name == "ForwardKL" else reverse_kl_velocity
    optimizer = optax.sgd(world.rate) if world.plain else optax.adam(world.rate)
    weight = jnp.exp(ref_logp[:, None] + ref_logp[None])
    first = problem.reward[:, None] >= problem.reward[None]

    def measured(logits: jax.Array) -> dict[str, jax.Array]:
        logp = jax.nn.log_softmax(logits)
        ratio = logp - ref_logp
        return {
            "probability": jnp.exp(logp),
            "reward": jnp.sum(jnp.exp(logp) * problem.reward),
            "reverse_kl": reverse_kl(logp, ref_logp),
            "forward_kl": forward_kl(logp, ref_logp),
            "entropy": entropy(logp),
            "distance": jnp.sum(jnp.abs(jnp.exp(logp) - jnp.exp(target))) / 2,
            "chosen_log_ratio": jnp.sum(weight * jnp.where(first, ratio[:, None], ratio[None])),
            "rejected_log_ratio": jnp.sum(weight * jnp.where(first, ratio[None], ratio[:, None])),
        }

    def step(carry: Any, _: None) -> Any:
        logits, state = carry
        push = velocity(jax.nn.log_softmax(logits), target)
        updates, state = optimizer.update(-push, state, logits)
        logits = optax.apply_updates(logits, updates)
        return (logits, state), measured(logits)

    carry = (ref_logp, optimizer.init(ref_logp))
    _, found = jax.jit(lambda carry: jax.lax.scan(step, carry, length=STEPS))(carry)
    later = [{k: v[n] for k, v in found.items()} for n in range(EVERY - 1, STEPS, EVERY)]
    return [measured(ref_logp), *later]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", list(cases()))
def test_the_numbers_of_the_page_are_those_of_the_library(engine, name):
    world, policy = cases()[name]
    if policy.name in IDEALS:
        expected = towards_the_optimum(world, policy)
    else:
        trace = trained(world, policy, STEPS, EVERY)
        records = range(STEPS // EVERY + 1)
        expected = [{key: getattr(trace, key)[n] for key in MEASURES} for n in records]
    for found, wanted in zip(engine[name], expected, strict=True):
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


def test_thirty_pairs_pile_mass_up_on_the_last_bin():
    preset = next(one for one in PRESETS if one.id == "few-pairs")
    [records] = run_engine([asked(preset.world, preset.b, every=400, steps=400)])
    assert records[-1]["probability"][-1] > 0.5


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("who", "ideal"), [("a", "ReverseKL"), ("b", "ForwardKL")])
def test_the_two_ways_to_one_optimum_are_the_two_divergences(who, ideal):
    preset = next(one for one in PRESETS if one.id == "same-optimum")
    trace = trained(preset.world, getattr(preset, who), STEPS, STEPS)
    expected = towards_the_optimum(preset.world, Policy(name=ideal))[-1]
    # Adam knows no scale but that of its epsilon.
    np.testing.assert_allclose(trace.probability[-1], expected["probability"], atol=1e-4)


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


def test_the_claims_are_what_the_library_shows():
    def end(preset_id: str, who: str, steps: int = 400) -> dict[str, float]:
        preset = next(one for one in PRESETS if one.id == preset_id)
        trace = trained(preset.world, getattr(preset, who), steps, steps)
        return {key: float(getattr(trace, key)[-1]) for key in ("reward", "reverse_kl")}

    assert end("negative-gradient", "a")["reward"] > end("negative-gradient", "b")["reward"] + 0.3
    gains = {
        preset: end(preset, "a")["reward"] - end(preset, "b")["reward"]
        for preset in ("on-policy", "near-peak")
    }
    assert gains["on-policy"] > 0.3 and gains["on-policy"] > 2 * gains["near-peak"]
    assert end("reuse", "a", 100)["reward"] > end("reuse", "b", 100)["reward"] + 0.1
    assert end("bounded", "a")["reverse_kl"] > end("bounded", "b")["reverse_kl"]


def test_the_command_writes_it_and_says_where(tmp_path, capsys):
    out = tmp_path / "there" / "page.html"
    lecture.main(["--out", str(out)])
    assert out.read_text(encoding="utf-8") == page()
    assert "written" in capsys.readouterr().out
    write(out)
    with pytest.raises(SystemExit):
        lecture.main(["--out", str(tmp_path)])
    assert "Value error" in capsys.readouterr().err
