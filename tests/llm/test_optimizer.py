"""Every rule clips, decays and follows the schedule alike; only its direction is its own."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm.optimizer import optimizer, schedule
from llm.settings import OptimizerSettings

RULES = ("adamw", "lion", "adafactor", "sgd")


def rates(settings: OptimizerSettings, peak: float, steps: int, last: int) -> np.ndarray:
    """The learning rate of each step."""
    rate = schedule(settings, peak, steps)
    return np.array([rate(step) for step in range(last)])


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing():
    seen = rates(OptimizerSettings(warmup=0.2), 1e-3, 20, last=21)
    np.testing.assert_allclose(seen[:4], [0.25e-3, 0.5e-3, 0.75e-3, 1e-3], rtol=1e-5)
    assert seen[4] == pytest.approx(1e-3) and (np.diff(seen[4:]) < 0).all()
    assert seen[19] > 0 and seen[20] == pytest.approx(0, abs=1e-9)


def test_no_step_is_wasted_on_a_learning_rate_of_0():
    for shape in ("cosine", "linear", "constant"):
        for steps in (1, 2, 7, 100):
            seen = rates(OptimizerSettings(schedule=shape), 1.0, steps, last=steps)
            assert (seen > 0).all(), (shape, steps)


def test_a_constant_rate_without_warm_up_is_constant():
    seen = rates(OptimizerSettings(schedule="constant", warmup=0.0), 0.5, 3, last=3)
    assert seen.tolist() == [0.5, 0.5, 0.5]


def moved(settings: OptimizerSettings, gradient: float, rate: float = 0.1) -> dict[str, np.ndarray]:
    """What a first step adds to a matrix of ones and to a scale of ones."""
    rule = optimizer(settings, optax.constant_schedule(rate))
    ones = {"query/kernel": jnp.ones((2, 2)), "norm/scale": jnp.ones((1, 2))}
    slope = {path: jnp.full_like(value, gradient) for path, value in ones.items()}
    updates: Any
    updates, _ = rule.update(slope, rule.init(ones), ones)
    return {path: np.asarray(value) for path, value in updates.items()}


@pytest.mark.parametrize("name", RULES)
def test_every_rule_walks_downhill(name):
    for value in moved(OptimizerSettings(name=name), 1.0).values():
        assert (value < 0).all()


@pytest.mark.parametrize("name", RULES)
def test_decay_is_a_share_of_the_learning_rate_and_spares_scales(name):
    found = moved(OptimizerSettings(name=name, weight_decay=0.5), 0.0)
    np.testing.assert_allclose(found["query/kernel"], -0.1 * 0.5, rtol=1e-5)
    np.testing.assert_array_equal(found["norm/scale"], 0)


def test_adamw_is_the_published_rule():
    ours = optimizer(
        OptimizerSettings(weight_decay=0.1, clip_norm=float("inf")), optax.constant_schedule(0.01)
    )
    theirs = optax.adamw(0.01, weight_decay=0.1)
    one: Any
    other: Any
    one = other = {"query/kernel": jnp.array([[1.0, -2.0]])}
    state, known = ours.init(one), theirs.init(other)
    for step in range(3):
        slope = {"query/kernel": jnp.array([[0.3, -1.0 * step]])}
        update, state = ours.update(slope, state, one)
        expected, known = theirs.update(slope, known, other)
        one, other = optax.apply_updates(one, update), optax.apply_updates(other, expected)
    np.testing.assert_allclose(one["query/kernel"], other["query/kernel"], rtol=1e-6)


def test_a_long_gradient_is_shortened_and_a_short_one_is_not():
    settings = OptimizerSettings(name="sgd", clip_norm=1.0)
    for gradient, expected in ((100.0, 1 / np.sqrt(6)), (0.01, 0.01)):
        found = moved(settings, gradient, rate=1.0)["query/kernel"]
        np.testing.assert_allclose(found, -expected, rtol=1e-4)
