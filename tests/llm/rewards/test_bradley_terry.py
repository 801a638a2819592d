"""A reward model's reward is its score of the text as it was trained to read it, alone."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.checkpoints.reward import load_reward_model, save_reward_model
from llm.data.examples import DataSettings, Example
from llm.data.rendering import render
from llm.model import RewardModel, abstract_decoder, parameters, with_parameters
from llm.model.architecture import architecture_from_config
from llm.rewards.bradley_terry import batches, bradley_terry, power_of_two, share_prompts
from llm.settings import Training, as_record
from llm.state import RUN
from tests.llm.data.byte_tokenizer import TEMPLATE, make_tokenizer
from tests.llm.rewards.written import groups, reward, written
from tests.llm.tiny_runs import CONFIG, make_groups


def save(folder, tokenizer):
    """A reward model whose numbers are anything but small."""
    rng = np.random.default_rng(0)
    shapes = abstract_decoder(architecture_from_config(CONFIG))
    values = {
        path: jnp.asarray(rng.normal(0, 0.3, shape.shape), jnp.float32)
        for path, shape in parameters(shapes).items()
    }
    model = RewardModel(with_parameters(shapes, values))
    model.head.kernel.set_value(jnp.asarray(rng.normal(size=16), jnp.float32))
    save_reward_model(folder, model, config=CONFIG, tokenizer=tokenizer)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("reward") / "model", make_tokenizer())


@pytest.fixture(scope="module")
def judged(folder):
    """The reward, one for all tests so that a shape is compiled once."""
    return bradley_terry("model", str(folder), max_tokens=512)


LENGTH = 128


@jax.jit
def one_row(model, tokens, size):
    """The score of one sequence in a row of its own."""
    places = jnp.arange(LENGTH)
    row = (tokens, places, (places < size).astype(jnp.int32), jnp.zeros(LENGTH, jnp.int32))
    return model(*(part[None, :] for part in row), at=jnp.array([size - 1]))[0]


def alone(folder, prompt, response, chat=False, tokenizer=None):
    """The score of a text that was tokenized as for training, without anything packed."""
    example = Example(prompt, (response,), (0.0,), "here")
    reading = DataSettings(chat=chat)
    (group,) = render([example], tokenizer or make_tokenizer(), reading, LENGTH)
    ids = np.concatenate((group.prompt, group.responses[0]))
    padded = jnp.asarray(np.pad(ids, (0, LENGTH - len(ids))))
    return float(one_row(load_reward_model(str(folder)), padded, len(ids)))


ASKED = groups(
    ["short", "", "a much longer response than the others are " * 2], ["b"], ["short", "short"]
)


def test_every_response_gets_the_score_of_its_text(folder, judged):
    found = judged(ASKED)
    assert [len(values) for values in found] == [3, 1, 2]
    for group, values in zip(ASKED, found, strict=True):
        assert values.dtype == np.float64
        for one, value in zip(group, values, strict=True):
            assert value == pytest.approx(alone(folder, one.prompt, one.response), abs=1e-4)
    assert found[2][0] == pytest.approx(found[2][1], abs=1e-5)
    assert found[2][0] != pytest.approx(found[0][0], abs=1e-3)  # the prompt counts


def test_a_score_does_not_depend_on_what_else_is_scored(judged):
    together = judged(ASKED)
    (by_itself,) = judged([[ASKED[0][0]]])
    assert by_itself[0] == pytest.approx(together[0][0], abs=1e-4)


def test_a_response_far_too_long_takes_nothing_from_the_prompt_of_another(judged):
    prompt = "a prompt of some length, " * 3
    first, second = written("one", prompt), written("x" * 400, prompt)
    (both,) = judged([[first, second]])
    (one,) = judged([[first]])
    assert both[0] == pytest.approx(one[0], abs=1e-4) and np.isfinite(both[1])


def test_groups_of_all_sizes_are_scored_with_few_programs(judged):
    rng = np.random.default_rng(0)
    calls = [
        groups(*[["x" * int(rng.integers(0, 30)) for _ in range(2)] for _ in range(many)])
        for many in (3, 4, 5, 6, 7)
    ]
    (first,) = judged([calls[0][0]])
    assert first.shape == (2,)
    shapes = {
        (batch.tokens.shape, batch.mask.shape)
        for asked in calls
        for batch in batches_of(judged, asked)
    }
    assert len(shapes) <= 3
    for rows, length in {tokens for tokens, _ in shapes}:
        assert power_of_two(rows) == rows and power_of_two(length) == length
        assert rows * length <= 512


def test_every_group_is_in_one_batch_and_only_there():
    sizes = np.random.default_rng(0).integers(1, 60, (40, 3)).tolist()
    made = list(batches(make_groups(*sizes), 256))
    assert len(made) > 2
    seen = np.concatenate([batch.example for batch in made])
    assert sorted(seen[seen >= 0].tolist()) == list(range(40))


def batches_of(judged, asked):
    flat = [one for group in asked for one in group]
    shared, members = share_prompts(judged.render(flat), asked, 2 * judged.width)
    assert sorted(index for some in members for index in some) == list(range(len(flat)))
    return list(batches(shared, judged.max_tokens))


def test_responses_to_a_prompt_share_it_while_a_row_can_hold_them(judged):
    asked = groups(["x" * 20] * 8)
    rendered = judged.render(asked[0])
    for most, sizes in ((512, [8]), (90, [4, 4]), (70, [3, 3, 2]), (10, [1] * 8)):
        shared, members = share_prompts(rendered, asked, most)
        assert [len(some) for some in members] == sizes
        assert [len(group.responses) for group in shared] == sizes
    (found,) = judged(asked)
    np.testing.assert_allclose(found, found[0], atol=1e-4)


def test_no_response_is_no_reward(judged):
    assert judged([]) == []
    (found,) = judged([[]])
    assert found.shape == (0,)


def test_weights_are_read_when_they_are_first_needed(folder, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "llm.rewards.bradley_terry.load_reward_model",
        lambda name: calls.append(name) or load_reward_model(name),
    )
    asked = reward(f"model:{folder}", max_tokens=512)
    assert not calls
    asked(ASKED[1:2])
    asked(ASKED[1:2])
    assert calls == [str(folder)]


def write_run(folder, name, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "recipe": name,
        "settings": as_record(Training(**settings)),
        "fingerprints": {},
    }
    (folder / RUN).write_text(json.dumps(record))
    return folder


def test_a_run_says_how_its_model_was_trained_to_read(tmp_path):
    tokenizer = make_tokenizer(template=TEMPLATE)
    run = write_run(tmp_path / "run", "reward_model", reading=DataSettings(chat=True))
    model = save(run / "model", tokenizer)
    chat = alone(model, "Why?", "So.", True, tokenizer)
    assert chat != pytest.approx(alone(model, "Why?", "So.", tokenizer=tokenizer), abs=1e-3)
    for place in (run, model):
        (found,) = reward(f"model:{place}", max_tokens=512)([[written("So.", "Why?")]])
        assert found[0] == pytest.approx(chat, abs=1e-4)


def test_a_bos_that_the_text_has_already_is_not_put_there_again(tmp_path):
    tokenizer = make_tokenizer(add_bos=True)
    judged = bradley_terry("model", str(save(tmp_path / "model", tokenizer)), max_tokens=512)
    (once,), (again,) = (judged([[written("a", prompt)]]) for prompt in ("Q", "<s>Q"))
    assert once.tolist() == again.tolist()
    (group,) = judged.render([written("a", "<s>Q")])
    assert group.prompt.tolist() == [0, *tokenizer("Q", add_special_tokens=False)["input_ids"]]


def test_what_is_no_reward_model_is_refused_before_its_weights_are_read(tmp_path):
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ValueError, match=r"holds a language model.*train reward_model"):
        reward(f"model:{policy}")
    with pytest.raises(ValueError, match=r"is a run of dpo: give one of `modeseek train reward"):
        reward(f"model:{write_run(tmp_path / 'dpo', 'dpo')}")
    with pytest.raises(ValueError, match=r"holds no model: the run is not finished"):
        reward(f"model:{write_run(tmp_path / 'begun', 'reward_model')}")
    with pytest.raises(ValueError, match=r"There is no folder .*Check the path"):
        reward(f"model:{tmp_path / 'nowhere'}")
