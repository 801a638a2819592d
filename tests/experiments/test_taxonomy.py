"""What the experiment on the taxonomy concludes from forces, right and wrong."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from experiments.bandit import taxonomy
from experiments.results import Result
from figures import taxonomy as figure
from objectives import RECIPES


def test_a_group_is_pushed_if_any_response_is():
    forces = np.array([[[1.0, 0.0], [1.0, -1.0]], [[2.0, 0.5], [1.0, -1e-9]]])
    np.testing.assert_array_equal(taxonomy.share_pushed(forces), [0.5, 0.0])


@pytest.mark.parametrize(
    ("measured", "outcome"),
    [
        ({"A": (1.0, 1.0), "B": (0.0, 0.0)}, "held"),
        ({"A": (0.9, 1.0), "B": (0.0, 0.0)}, "did not hold"),
        ({"A": (1.0, 1.0), "B": (0.0, 0.1)}, "did not hold"),
    ],
)
def test_a_class_must_do_what_it_says(measured, outcome):
    assert taxonomy.classes_agree({"A": True, "B": False}, measured).outcome == outcome


def test_table_1_tells_a_switch_from_a_contradiction():
    pushes = {name: float(negative) for name, (*_, negative) in taxonomy.TABLE_1.items()}
    verdict = taxonomy.table_1(pushes)
    switched = [
        name
        for name, (_, reused, _) in taxonomy.TABLE_1.items()
        if reused is not None and reused != (RECIPES[name].reuse.inner_steps > 1)
    ]
    assert verdict.outcome == ("held under this condition" if switched else "held")
    assert all(name in verdict.condition for name in switched)
    assert taxonomy.table_1(pushes | {"dpo": 0.0}).outcome == "did not hold"


def test_the_remark_on_baselines_needs_both_halves():
    assert taxonomy.baseline(0.0, 1.0).outcome == "held"
    assert taxonomy.baseline(0.1, 1.0).outcome == "did not hold"
    assert taxonomy.baseline(0.0, 0.0).outcome == "did not hold"


def test_its_figure_draws():
    recipes = [
        {"name": "sft", "objective": "SFT", "on_policy": False, "reuse": 1, "pushes": False},
        {"name": "dpo", "objective": "DPO", "on_policy": False, "reuse": 1, "pushes": True},
        {"name": "ppo", "objective": "PPO", "on_policy": True, "reuse": 2, "pushes": True},
    ]
    forces = np.array([[1.0, 1, 1, 1], [3, 1, -1, -3], [3, 1, 0, -3]])
    result = Result(
        name="taxonomy", verdicts=[], arrays={"forces": forces}, settings={"recipes": recipes}
    )
    drawn = figure.draw(result)
    drawn.canvas.draw()
    words = {text.get_text() for text in drawn.axes[0].texts}
    assert {"SFT", "DPO", "PPO, T = 2"} <= words
    plt.close(drawn)
