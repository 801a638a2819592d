"""What a run is made of is read once, checked, and written down so that nothing can be swapped."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llm.data.examples import DataSettings
from llm.preparation import prepare
from llm.refusals import check_recipe, check_settings
from llm.settings import OFFLINE_RECIPES, Training
from objectives import KTO
from objectives.recipes import Recipe
from tests.llm.tiny_runs import make_groups, pairs, write_model, write_rows


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    write_model(folder / "model")
    write_rows(folder / "pairs.jsonl", pairs(20))
    return folder


def prepared(place: Path, name: str = "dpo", **changes):
    settings = Training(
        model=str(place / "model"), data=str(place / "pairs.jsonl"), out=place / "run", batch=4
    )
    said: list[str] = []
    return prepare(name, OFFLINE_RECIPES[name], replace(settings, **changes), said.append)


def test_every_row_is_trained_on_or_held_out_and_none_is_both(place):
    found = prepared(place, reading=DataSettings(eval_share=0.2))
    assert len(found.groups) == 16 and len(found.held_out) == 4
    prompts = [group.prompt.tobytes() for group in (*found.groups, *found.held_out)]
    assert len(set(prompts)) == 20


def test_preparing_writes_nothing(place):
    prepared(place)
    assert not (place / "run").exists()


def test_the_record_is_json_and_the_same_every_time(place):
    one, other = prepared(place).record, prepared(place).record
    assert json.loads(json.dumps(one)) == one == other
    assert one["recipe"] == "dpo" and one["objective"]["beta"] == 0.1


def test_the_record_tells_other_data_from_these(place):
    one = prepared(place)
    other = prepared(place, reading=DataSettings(limit=19))
    assert one.record["fingerprints"]["model"] == other.record["fingerprints"]["model"]
    assert one.record["fingerprints"]["data"] != other.record["fingerprints"]["data"]
    assert one.reference_key != other.reference_key


def test_data_without_a_difference_teach_a_contrastive_recipe_nothing():
    ties = make_groups((3, 4, 5), (2, 3, 3), rewards=(1.0, 1.0))
    with pytest.raises(ValueError, match="two responses of different reward"):
        check_recipe(OFFLINE_RECIPES["dpo"], ties)
    check_recipe(OFFLINE_RECIPES["sft"], ties)


def test_thumbs_that_all_point_one_way_teach_kto_nothing():
    for reward, word in ((1.0, "desirable"), (0.0, "undesirable")):
        with pytest.raises(ValueError, match=f"every response is {word}"):
            check_recipe(OFFLINE_RECIPES["kto"], make_groups((3, 4), rewards=(reward,)))
    check_recipe(Recipe(KTO(threshold="group_mean")), make_groups((3, 4), rewards=(1.0,)))
    check_recipe(OFFLINE_RECIPES["kto"], make_groups((3, 4, 5), rewards=(1.0, 0.0)))


def test_an_objective_of_log_ratios_needs_something_to_compare_with():
    for name in ("dpo", "ipo", "kto"):
        with pytest.raises(ValueError, match="--reference none"):
            check_settings(name, OFFLINE_RECIPES[name], Training(reference="none"), 100)
    check_settings("simpo", OFFLINE_RECIPES["simpo"], Training(reference="none"), 100)
    check_settings("reward_model", OFFLINE_RECIPES["reward_model"], Training(), 100)


def test_a_step_never_sees_a_group_twice():
    check_settings("sft", OFFLINE_RECIPES["sft"], Training(batch=9), 9)
    with pytest.raises(ValueError, match="--batch is 9, and there are 8 groups"):
        check_settings("sft", OFFLINE_RECIPES["sft"], Training(batch=9), 8)
