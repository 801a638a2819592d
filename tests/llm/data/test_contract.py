"""Data that would train a model on the wrong thing are refused, all of them at once."""

from dataclasses import replace

import numpy as np
import pytest

from llm.data.contract import REMEDIES, Contract, examine, summarise
from llm.data.examples import DataSettings, Example, Group
from llm.data.rendering import tokenize
from tests.llm.data.byte_tokenizer import make_tokenizer

CONTRACT = Contract(eos=1, bos=0, vocab_size=300, max_length=6, pairs=True)
EXAMPLE = Example("ab", ("cd", "ef"), (1.0, 0.0), "a:1")


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int32)


GOOD = Group(ids(0, 5), (ids(7, 8, 1), ids(9, 1)), np.array([1, 0], np.float32), "a:1")
BREAKS = {
    "empty response": (replace(EXAMPLE, responses=("cd", " \n")), GOOD),
    "nothing to score": (EXAMPLE, replace(GOOD, prompt=ids(), responses=(ids(7, 1), ids(1)))),
    "double BOS": (EXAMPLE, replace(GOOD, prompt=ids(0, 0, 5))),
    "BOS in a response": (EXAMPLE, replace(GOOD, responses=(ids(0, 8, 1), ids(9, 1)))),
    "EOS inside a response": (EXAMPLE, replace(GOOD, responses=(ids(7, 1, 1), ids(9, 1)))),
    "missing EOS": (EXAMPLE, replace(GOOD, responses=(ids(7, 8), ids(9, 1)))),
    "identical responses": (EXAMPLE, replace(GOOD, responses=(ids(9, 1), ids(9, 1)))),
    "rating not finite": (EXAMPLE, replace(GOOD, rewards=np.array([np.nan, 0], np.float32))),
    "too long": (EXAMPLE, replace(GOOD, prompt=ids(0, 5, 5, 5))),
    "no pair": (
        replace(EXAMPLE, responses=("cd",)),
        replace(GOOD, responses=(ids(7, 1),), rewards=np.ones(1, np.float32)),
    ),
    "unknown token": (EXAMPLE, replace(GOOD, prompt=ids(0, 300))),
    "no response": (
        replace(EXAMPLE, responses=()),
        replace(GOOD, responses=(), rewards=np.ones(0, np.float32)),
    ),
}


def kinds(example: Example, group: Group, **changes) -> set[str]:
    return {finding.kind for finding in examine(example, group, replace(CONTRACT, **changes))}


def test_a_good_group_has_no_finding():
    assert kinds(EXAMPLE, GOOD) == set()


@pytest.mark.parametrize("kind", BREAKS)
def test_each_rule_finds_what_it_is_for_and_nothing_else(kind):
    assert kinds(*BREAKS[kind]) == {kind}


def test_every_rule_is_tried_and_has_a_remedy():
    assert {*BREAKS, "lost prompt tail", "no prompt"} == set(REMEDIES)


def test_a_prompt_is_enough_where_the_model_answers_it():
    example, alone = BREAKS["no response"]
    assert not kinds(example, alone, prompts_only=True)
    assert kinds(example, replace(alone, prompt=ids()), prompts_only=True) == {"no prompt"}
    assert kinds(example, replace(alone, prompt=ids(300)), prompts_only=True) == {"unknown token"}
    full = replace(alone, prompt=ids(0, 5, 5, 5, 5, 5))
    assert kinds(example, full, prompts_only=True) == {"too long"}


def test_a_response_that_was_cut_may_miss_its_eos():
    assert not kinds(EXAMPLE, replace(BREAKS["missing EOS"][1], cut_responses=1))


def test_identical_responses_rated_alike_are_fine():
    tied = replace(BREAKS["identical responses"][1], rewards=np.ones(2, np.float32))
    assert not kinds(EXAMPLE, tied)


def test_bos_and_eos_may_be_one_token():
    # GPT-2: the EOS at the end of a response is no BOS inside it.
    one = replace(GOOD, prompt=ids(1, 5))
    assert not kinds(EXAMPLE, one, bos=1)


def test_a_single_response_is_enough_where_nothing_is_compared():
    assert not kinds(*BREAKS["no pair"], pairs=False)


def test_a_prompt_whose_end_is_missing_from_its_tokens_is_found(tokenizer):
    group = tokenize([EXAMPLE], tokenizer, DataSettings())[0]
    assert not examine(EXAMPLE, group, CONTRACT, tokenizer)
    cut = replace(group, prompt=group.prompt[:-1])
    (finding,) = examine(EXAMPLE, cut, CONTRACT, tokenizer)
    assert finding.kind == "lost prompt tail"


@pytest.mark.parametrize(
    "prompt", ["naïve — “quoted” 東京", "ends in space \n", "</s> odd", "é" * 20]
)
def test_odd_prompts_keep_their_tail(prompt):
    for tokenizer in (make_tokenizer(), make_tokenizer(add_bos=True)):
        tokenize([replace(EXAMPLE, prompt=prompt)], tokenizer, DataSettings())


def test_everything_that_is_wrong_is_said_in_one_message(tokenizer):
    examples = [
        EXAMPLE,
        replace(EXAMPLE, responses=("cd", ""), where="a:2"),
        replace(EXAMPLE, responses=("same", "same"), where="a:3"),
    ]
    with pytest.raises(ValueError) as caught:
        tokenize(examples, tokenizer, DataSettings())
    message = str(caught.value)
    assert "2 of 3 rows" in message
    assert "a:2: empty response" in message and "a:3: identical responses" in message
    assert REMEDIES["empty response"] in message and "--reading.bad-rows drop" in message


def test_bad_rows_are_left_out_where_that_is_asked_for(tokenizer):
    said = []
    bad = replace(EXAMPLE, responses=("cd", ""), where="a:2")
    settings = DataSettings(bad_rows="drop")
    kept = tokenize([EXAMPLE, bad], tokenizer, settings, say=said.append)
    assert [group.where for group in kept] == ["a:1"]
    assert any("1 of 2 rows left out" in sentence for sentence in said)
    with pytest.raises(ValueError, match="1 of 1 rows"):
        tokenize([bad], tokenizer, settings)


def test_a_tokenizer_of_another_model_is_refused_even_where_rows_may_be_left_out(tokenizer):
    settings = DataSettings(bad_rows="drop")
    with pytest.raises(ValueError, match="the tokenizer does not belong to the model"):
        tokenize([EXAMPLE, EXAMPLE], tokenizer, settings, vocab_size=50)


def test_a_recipe_that_compares_needs_two_responses(tokenizer):
    single = replace(EXAMPLE, responses=("cd",), rewards=(1.0,))
    with pytest.raises(ValueError, match="no pair: there is one response"):
        tokenize([single], tokenizer, DataSettings(), pairs=True)


def test_the_summary_counts_what_is_worth_a_warning():
    tied = replace(GOOD, rewards=np.ones(2, np.float32))
    cut = replace(GOOD, prompt=ids(5, 5), lost_prompt=3, cut_responses=2)
    summary = summarise([GOOD, GOOD, tied, cut])
    assert (summary.groups, summary.responses) == (4, 8)
    assert (summary.tokens, summary.scored) == (28, 20)
    assert (summary.shortened_prompts, summary.cut_responses) == (1, 2)
    assert (summary.repeated, summary.undecided) == (2, 1)
    assert len(summary.sentences()) == 5
    assert len(summarise([GOOD]).sentences()) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"max_length": 0}, "max_length is 0"),
        ({"eval_share": 1.0}, "eval_share is 1.0"),
        ({"max_length": 8, "max_prompt_length": 8}, "leave room for a response"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DataSettings(**settings)
