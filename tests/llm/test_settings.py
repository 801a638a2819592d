"""What a run is told: refused at once where it makes no sense, and written down as plain JSON."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llm.settings import (
    OFFLINE_RECIPES,
    AdapterSettings,
    LogSettings,
    MeshSettings,
    OptimizerSettings,
    SaveSettings,
    Training,
    as_record,
    learning_rate,
    reference_kind,
)


def test_every_offline_recipe_of_the_issue_is_there():
    asked = "sft pref_ft best_of_n rwr awr dpo ipo slic simpo cpo orpo kto reward_model"
    assert set(asked.split()) <= set(OFFLINE_RECIPES)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Training(epochs=0.0), "epochs"),
        (lambda: Training(steps=0), "steps"),
        (lambda: Training(batch=0), "batch"),
        (lambda: Training(evaluate_every=-1), "evaluate_every"),
        (lambda: AdapterSettings(rank=-1), "rank"),
        (lambda: AdapterSettings(alpha=0.0), "alpha"),
        (lambda: OptimizerSettings(learning_rate=-1.0), "learning_rate"),
        (lambda: OptimizerSettings(warmup=1.0), "warmup"),
        (lambda: OptimizerSettings(clip_norm=0.0), "clip_norm"),
        (lambda: OptimizerSettings(beta2=1.0), "beta2"),
        (lambda: MeshSettings(fsdp=0), "fsdp"),
        (lambda: LogSettings(every=0), "every"),
        (lambda: SaveSettings(keep=0), "keep"),
        (lambda: SaveSettings(every=0), "every"),
    ],
)
def test_a_number_without_a_meaning_is_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_pushing_down_is_done_with_a_smaller_step_than_pulling_up():
    settings = Training()
    sft, dpo = (learning_rate(settings, name, OFFLINE_RECIPES[name]) for name in ("sft", "dpo"))
    assert dpo < sft
    adapted = replace(settings, adapters=AdapterSettings(rank=8))
    assert learning_rate(adapted, "dpo", OFFLINE_RECIPES["dpo"]) == pytest.approx(10 * dpo)
    given = replace(settings, optimizer=OptimizerSettings(learning_rate=0.5))
    assert learning_rate(given, "dpo", OFFLINE_RECIPES["dpo"]) == 0.5


@pytest.mark.parametrize(
    ("name", "asked", "expected"),
    [
        ("dpo", "auto", "cache"),
        ("ipo", "auto", "cache"),
        ("kto", "auto", "cache"),
        ("simpo", "auto", "none"),
        ("sft", "auto", "none"),
        ("sft", "model", "model"),
        ("dpo", "model", "model"),
        ("reward_model", "auto", "none"),
        ("reward_model", "model", "none"),
    ],
)
def test_a_reference_is_there_where_it_is_needed_or_asked_for(name, asked, expected):
    settings = Training(model="of/mine", reference=asked)
    assert reference_kind(settings, name, OFFLINE_RECIPES[name]) == expected


def test_a_record_is_json_and_tells_any_two_settings_apart():
    one = as_record(Training(out=Path("here")))
    assert json.loads(json.dumps(one)) == one
    assert one["out"] == "here"
    assert as_record(Training(optimizer=OptimizerSettings(beta1=0.8))) != as_record(Training())
    recipes = {json.dumps(as_record(recipe.objective)) for recipe in OFFLINE_RECIPES.values()}
    assert len(recipes) == len(OFFLINE_RECIPES)


def test_the_embedded_model_is_small_enough_to_be_kept_beside_itself():
    assert reference_kind(Training(), "sft", OFFLINE_RECIPES["sft"]) == "model"
