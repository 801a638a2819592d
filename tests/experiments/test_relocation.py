"""What the experiment on mass relocation concludes, whichever way the mass went."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from experiments.bandit import relocation
from experiments.results import Result
from figures import relocation as figure

BINS = np.arange(100)
PEAKS = np.array([[20, 70], [30, 80]])


def mixture(near: float, far: float, pair=(20, 70)) -> np.ndarray:
    """A policy with these masses at two bins, and the rest spread over all."""
    p = np.full(BINS.size, (1 - near - far) / BINS.size)
    p[pair[0]] += near
    p[pair[1]] += far
    return p


def after(forward: tuple[float, float], reverse: tuple[float, float]) -> np.ndarray:
    """Policies after a few steps for two seeds that hardly differ."""
    return np.array(
        [
            [mixture(a + 0.001 * seed, b, PEAKS[seed]) for seed in range(2)]
            for a, b in (forward, reverse)
        ]
    )


@pytest.mark.parametrize(
    ("forward", "reverse", "outcome"),
    [
        ((0.45, 0.4), (0.9, 0.01), "held"),
        ((0.9, 0.01), (0.45, 0.4), "did not hold"),
    ],
)
def test_who_serves_a_subset_is_decided_by_the_lesser_peak(forward, reverse, outcome):
    start = mixture(0.3, 0.1)
    assert relocation.subset(after(forward, reverse), PEAKS, start).outcome == outcome


def test_who_leaves_mass_outside_is_decided_by_what_is_far_from_both_peaks():
    little, much = (0.45, 0.45), (0.3, 0.3)
    assert relocation.outside(after(much, little), PEAKS).outcome == "held"
    assert relocation.outside(after(little, much), PEAKS).outcome == "did not hold"


def test_a_thin_peak_is_found_and_finished_by_whoever_gets_there_first():
    steps = np.arange(5)
    slow_start, fast_start = [0, 0, 0.2, 0.95, 1], [0, 0.2, 0.3, 0.4, 0.95]
    both = np.array([fast_start, slow_start])
    assert relocation.thin_peak(steps, both).outcome == "held"
    assert relocation.thin_peak(steps, both[::-1]).outcome == "did not hold"
    never = np.array([fast_start, [0, 0, 0, 0, 0]])
    assert relocation.thin_peak(steps, never).outcome == "did not hold"


def test_both_directions_must_end_at_the_target():
    target = mixture(0.5, 0.5)
    assert relocation.same_end(np.stack([target, target]), target).outcome == "held"
    short = np.stack([target, mixture(0.6, 0.4)])
    assert relocation.same_end(short, target).outcome == "did not hold"


def test_one_bump_holds_always_sometimes_or_not():
    starts = np.array([[10.0, 5.0], [80.0, 5.0]])
    covering = [[45.0, 30.0, 1.5], [45.0, 30.0, 1.5]]
    nearer, farther = [[20.0, 2.0, 0.7], [70.0, 2.0, 0.7]], [[70.0, 2.0, 0.7], [20.0, 2.0, 0.7]]
    stuck = [[20.0, 2.0, 0.7], [45.0, 30.0, 3.0]]

    def outcome(reverse):
        return relocation.one_bump(np.array([covering, reverse]), starts).outcome

    assert outcome(nearer) == "held"
    assert outcome(stuck) == "held under this condition"
    assert outcome(farther) == "did not hold"


def test_peaks_are_far_apart_and_do_not_depend_on_how_many_seeds_there_are():
    peaks = relocation.random_peaks(5)
    assert np.all(np.abs(peaks[:, 0] - peaks[:, 1]) >= relocation.APART)
    np.testing.assert_array_equal(relocation.random_peaks(3), peaks[:3])


@pytest.fixture
def result():
    policies = np.stack([mixture(0.5, 0.4), mixture(0.9, 0.01)])
    frames = np.repeat(policies[:, None], 3, axis=1)
    velocity = np.tile(np.sin(BINS), (2, 3, 1))
    return Result(
        name="relocation",
        verdicts=[],
        arrays={
            "start": mixture(0.1, 0.1),
            "target": mixture(0.5, 0.5),
            "stills": frames,
            "frame_steps": np.array([0, 10, 100]),
            "frames": frames,
            "measured": velocity,
            "predicted": velocity,
            "bumps": policies,
        },
        settings={"stills": [1, 2, 3], "peaks": [20, 70], "region": 10, "learning_rate": 1.0},
    )


def test_its_figure_draws(result):
    drawn = figure.draw(result)
    drawn.canvas.draw()
    plt.close(drawn)


def test_its_animation_shows_every_step_and_rests_at_the_end(result):
    animation = figure.animate(result)
    frames = list(animation.new_frame_seq())
    assert frames[:3] == [0, 1, 2]
    assert set(frames[3:]) == {2}
    animation._draw_was_started = True  # pyright: ignore  # matplotlib warns of an animation nobody shows
    plt.close("all")
