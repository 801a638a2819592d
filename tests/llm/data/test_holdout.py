"""Held-out prompts are drawn by what they say, and none is trained on."""

import numpy as np
import pytest

from llm.data.examples import Group
from llm.data.holdout import hold_out


def groups_of(*prompts: int) -> list[Group]:
    return [
        Group(
            np.array([0, prompt], np.int32),
            (np.array([row, 1], np.int32),),
            np.ones(1, np.float32),
            f"a:{row}",
        )
        for row, prompt in enumerate(prompts)
    ]


def test_no_prompt_is_on_both_sides_though_it_stands_in_many_rows():
    groups = groups_of(*(row % 20 for row in range(100)))
    train, held = hold_out(groups, 0.25, seed=0)
    assert len(train) == 75 and len(held) == 25
    assert not {int(g.prompt[1]) for g in train} & {int(g.prompt[1]) for g in held}


def test_the_choice_does_not_depend_on_the_order_of_the_rows():
    groups = groups_of(*range(50))
    _, held = hold_out(groups, 0.2, seed=0)
    _, again = hold_out(groups[::-1], 0.2, seed=0)
    assert {g.where for g in held} == {g.where for g in again}


def test_another_seed_holds_out_others():
    groups = groups_of(*range(200))
    chosen = [{g.where for g in hold_out(groups, 0.2, seed)[1]} for seed in (0, 1)]
    assert len(chosen[0] & chosen[1]) < 20


def test_texts_without_a_prompt_are_told_apart_by_what_they_say():
    groups = [
        Group(np.zeros(1, np.int32), (np.array([r, 1], np.int32),), np.ones(1, np.float32), f"{r}")
        for r in range(40)
    ]
    train, held = hold_out(groups, 0.25, seed=0)
    assert (len(train), len(held)) == (30, 10)


def test_prompts_that_the_model_shall_answer_are_divided_too():
    groups = [
        Group(np.array(ids, np.int32), (), np.zeros(0, np.float32), "a")
        for ids in ([5], [6], [7, 8], [7, 8])
    ]
    train, held = hold_out(groups, 0.4, 0)
    assert len(train) + len(held) == 4 and train and held


def test_each_side_has_at_least_one():
    train, held = hold_out(groups_of(1, 2), 0.01, seed=0)
    assert len(train) == len(held) == 1


def test_nothing_is_held_out_where_nothing_is_asked_for():
    assert hold_out(groups_of(1), 0.0, seed=0)[1] == []


def test_one_prompt_cannot_be_divided():
    with pytest.raises(ValueError, match=r"one prompt only.*--reading\.eval-share 0"):
        hold_out(groups_of(1, 1), 0.5, seed=0)
