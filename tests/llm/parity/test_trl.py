"""TRL's trainers and ours: the same model, token ids and optimizer give the same losses."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")

from experiments.benchmarks.rounds import MODESEEK, TRL, Turn, run
from experiments.benchmarks.speed import written_down
from experiments.benchmarks.tasks import Lengths, TrainTask, llama, make_rows, save_rows

LENGTHS = Lengths(prompt=8, response=8, longest=48)


def losses(task: TrainTask) -> tuple[list[float], list[float]]:
    ours, theirs = (run(Turn(who=who, task=task), "cpu")["losses"] for who in (MODESEEK, TRL))
    assert len(ours) == len(theirs) == task.steps
    return ours, theirs


@pytest.mark.parametrize("recipe", ["dpo", "sft"])
def test_the_first_twenty_losses_of_trl_are_ours(tmp_path, recipe):
    model = written_down(tmp_path / "model", llama(64, 2, 300, 64))
    # Eight rows, again and again, so that twenty steps are enough to learn them.
    rows = make_rows(8, 2 if recipe == "dpo" else 1, LENGTHS, model.words, 0) * 10
    save_rows(tmp_path / "rows.npz", rows)
    task = TrainTask(
        recipe=recipe,
        model=model,
        rows=str(tmp_path / "rows.npz"),
        batch=4,
        steps=20,
        learning_rate=1e-3,
    )
    ours, theirs = losses(task)
    assert ours[-1] < 0.8 * ours[0]  # they learn
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    np.testing.assert_allclose(ours[:5], theirs[:5], atol=1e-5)
    if recipe == "sft":  # laid end to end, its rows are the same rows
        _, again = losses(replace(task, padding_free=True, steps=5))
        np.testing.assert_allclose(again, ours[:5], atol=1e-4)
