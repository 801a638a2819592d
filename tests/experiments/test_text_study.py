"""What is computed once is kept under its name, and what changes the numbers changes the name."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.llm import runs, study, tasks
from experiments.llm.methods import METHODS, recipe_of
from experiments.llm.runs import ALL, Run
from experiments.results import Size
from objectives.recipes import Reuse

TINY = study.study_of(Size("quick", 2))


@pytest.fixture
def kept_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("MODESEEK_CACHE", str(tmp_path))
    return tmp_path


def test_comments_and_docstrings_are_no_statements():
    plain = "def f(x):\n    return x\n"
    told = '"""A module."""\n\n\ndef f(x):  # the same\n    """Say x."""\n    return x\n'
    assert study.statements(told) == study.statements(plain)
    assert study.statements(plain.replace("return x", "return -x")) != study.statements(plain)


def test_every_size_is_another_study():
    names = {study.digest(study.study_of(Size(n))) for n in ("quick", "default", "full")}
    assert len(names) == 3


def test_code_that_a_run_depends_on_is_in_its_name(tmp_path):
    for name, text in {
        "experiments/llm/runs.py": "def run():\n    from llm.train import go\n",
        "llm/__init__.py": "",
        "llm/train.py": "from llm import update\nimport objectives.terms\nimport numpy\n",
        "objectives/terms.py": "",
        "llm/evaluate.py": "from llm import train\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    code = tmp_path / "llm" / "update.py"

    def digest(path, text):
        path.write_text(text)
        study.code_digest.cache_clear()
        return study.code_digest(tmp_path)

    first = digest(code, "y = 1\n")
    assert digest(code, "# a word\ny = 1\n") == first
    assert digest(tmp_path / "llm" / "evaluate.py", "z = 1\n") == first
    assert digest(code, "y = 2\n") != first
    assert digest(code, "y = 1\n") == first
    assert digest(tmp_path / "llm" / "__init__.py", "z = 1\n") != first
    study.code_digest.cache_clear()


def test_the_code_of_a_run_is_the_trainer_and_not_the_bandit():
    found = {path.relative_to(study.ROOT).as_posix() for path in study.sources(study.ROOT)}
    assert {"llm/finetune.py", "llm/update.py", "llm/sampler/draws.py"} <= found
    assert {"objectives/contrastive.py", "experiments/llm/tasks.py"} <= found
    assert "llm/embedded/harbour.grammar" in found
    assert not any(name.startswith(("bandit/", "figures/", "modeseek/")) for name in found)
    assert "experiments/llm/on_policy.py" not in found


def test_a_run_is_trained_once(kept_apart, monkeypatch):
    trained = []

    def train(size, run):
        trained.append(run)
        return {"eval": {"step": [0.0, 8.0], "gold": [-30.0, float("nan")]}}

    monkeypatch.setattr(runs, "train", train)
    run = Run(task="min", method="PPO", seed=3)
    for _ in range(2):
        np.testing.assert_array_equal(runs.measured(TINY, run)["eval"]["gold"], [-30, np.nan])
    assert trained == [run]
    assert json.loads(runs.path_of(TINY, run).read_text())["run"]["seed"] == 3


def test_whatever_decides_a_run_is_in_its_name():
    run = Run(task="min", method="DPO", seed=0)
    others = [replace(run, **change) for change in (
        {"learning_rate": 1.0}, {"seed": 1}, {"task": "skew"}, {"passes": 2}, {"minibatches": 4},
        {"prompts": 8}, {"labelled": 8}, {"method": "IPO"},
    )]  # fmt: skip
    assert len({run.name, *(other.name for other in others)}) == 1 + len(others)


def test_units_come_once_and_after_what_they_need(kept_apart):
    wanted = [
        Run(task="min", method="PPO", seed=0),
        Run(task="min", method="REINFORCE", seed=0),
        Run(task="min", method="PPO", seed=0, labelled=8),
        Run(task="min", method="DPO", seed=0),
    ]
    units = {unit.name: unit for unit in runs.units_of(TINY, wanted, seeds=2)}
    assert len(units) == 1 + 4 + 8  # the reference, a proxy for each seed and number, the runs
    assert units[wanted[0].name].after == units[wanted[1].name].after == (f"proxy min 0 {ALL}",)
    assert units[wanted[2].name].after == ("proxy min 0 8",)
    assert units[wanted[3].name].after == (runs.REFERENCE,)
    assert all(unit.after[0] in units for unit in units.values() if unit.after)
    assert not any(unit.path.exists() for unit in units.values())


def test_lines_of_metrics_become_columns():
    lines = [
        {"kind": "eval", "step": 0, "gold": -3.0, "clock": {}},
        {"kind": "train", "step": 1, "loss": 0.5, "clock": {}},
        {"kind": "eval", "step": 8, "gold": -2.0, "accuracy": 0.5, "clock": {}},
    ]
    found = runs.columns(lines)
    assert found["eval"]["step"] == [0, 8]
    assert found["eval"]["gold"] == [-3, -2]
    np.testing.assert_array_equal(found["eval"]["accuracy"], [np.nan, 0.5])
    assert found["train"] == {"step": [1], "loss": [0.5]}


def test_the_tasks_want_short_answers_or_answers_of_a_length():
    np.testing.assert_array_equal(tasks.worth("min", [0, 5, 30], 27), [0, -5, -30])
    np.testing.assert_array_equal(tasks.worth("skew", [0, 5, 30], 27), [0, -5, -30])
    np.testing.assert_array_equal(tasks.worth("mode", [0, 27, 30], 27), [-27, 0, -3])


def test_every_method_has_the_same_m_and_n_whatever_the_staleness():
    for method in METHODS.values():
        recipe = recipe_of(method, TINY, 1.0, Reuse(inner_steps=2, minibatches=4))
        if method.online:
            assert recipe.collection.prompts == 4 * TINY.batch
            assert recipe.collection.responses == TINY.responses
            assert recipe.reuse == Reuse(inner_steps=2, minibatches=4)
        assert type(recipe.objective).__name__ == method.objective


def test_a_temperature_is_in_units_of_the_reward():
    for name in ("RWR", "online RWR"):
        one, two = (recipe_of(METHODS[name], TINY, x, Reuse()).objective.beta for x in (1.0, 2.0))
        assert two == 2 * one


def test_a_gain_is_the_share_of_what_there_is_to_gain(kept_apart, monkeypatch):
    facts = tasks.Facts(27, 35.0, {"min": -35.0}, {"min": 17.0}, [35])
    monkeypatch.setattr(runs, "facts_of", lambda size: facts)
    columns = {"eval": {"step": [0.0, 8.0, 16.0], "gold": [-35.0, -17.5, 0.0]}}
    monkeypatch.setattr(runs, "train", lambda size, run: columns)
    found = runs.gain(TINY, Run(task="min", method="PPO", seed=0), seeds=2)
    np.testing.assert_allclose(found, [[0, 0.5, 1], [0, 0.5, 1]])


@pytest.mark.slow
def test_the_smallest_study_runs_from_nothing(kept_apart):
    small = replace(TINY, steps=4, evaluate_every=4, proxy_steps=2)
    for method in ("online DPO", "DPO"):
        curves = runs.measured(small, Run(task="skew", method=method, seed=0))
        assert curves["eval"]["step"] == [0, 4]
        assert np.isfinite(curves["eval"]["gold"]).all()
        np.testing.assert_allclose(curves["eval"]["reverse_kl"][0], 0, atol=1e-4)
    rows = [json.loads(line) for line in tasks.data_file(small, "skew", 0).read_text().splitlines()]
    whole = [json.loads(line) for line in tasks.data_file(small, "min", 0).read_text().splitlines()]
    assert np.mean([r for row in rows for r in row["rewards"]]) > np.mean(
        [r for row in whole for r in row["rewards"]]
    )
    assert not list((kept_apart / "study").rglob("running/*"))
