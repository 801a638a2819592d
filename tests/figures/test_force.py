"""The picture of an objective's force draws what it is given, on one scale."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.patches import StepPatch

from figures import style
from figures.force import TITLES, Force, draw

BINS = 12


@pytest.fixture
def force() -> Force:
    """Arrays as no objective would make them, so that none can be taken for another."""
    key = np.random.default_rng(0)
    policy = key.dirichlet(np.ones(BINS), 2)
    push = key.normal(size=(2, BINS))
    return Force(
        objective="DPO",
        reference=policy[0],
        reward=key.uniform(size=BINS),
        policy=policy,
        push=push,
        velocity=push - policy * push.sum(axis=1, keepdims=True),
    )


def test_bars_are_the_push_and_the_line_is_the_velocity_on_one_scale(force):
    figure = draw(force)
    scale = np.abs(force.push).max()
    for column, title in enumerate(TITLES):
        ax = figure.axes[column]
        assert ax.get_title(loc="left") == title
        (bars,) = [patch for patch in ax.patches if isinstance(patch, StepPatch)]
        np.testing.assert_allclose(bars.get_data().values, force.push[column] / scale)
        assert to_hex(bars.get_facecolor()).upper() == style.COLOURS["DPO"]
        line = ax.lines[-1]
        np.testing.assert_allclose(line.get_ydata(), force.velocity[column] / scale)
        low, high = ax.get_ylim()
        assert low <= -1 and high >= 1
    plt.close(figure)


def test_the_policy_and_the_reference_stand_beneath(force):
    figure = draw(force)
    for column in range(2):
        below = figure.axes[2 + column]
        np.testing.assert_allclose(below.lines[0].get_ydata(), force.reference)
        highest = max(path.vertices[:, 1].max() for path in below.collections[1].get_paths())
        assert highest == pytest.approx(force.policy[column].max())
    plt.close(figure)
