"""The embedded model: made whole or not at all, found again, measured against the truth."""

import json
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.checkpoints.read import load_decoder
from llm.embedded import language, pretrain
from llm.embedded.language import demonstrations
from llm.embedded.pretrain import (
    REPORT,
    Pretraining,
    distance_from_truth,
    embedded_model,
    encode,
    fingerprint,
    response_logp,
)
from llm.model import parameters
from llm.sampler import Sampling, sample

TINY = Pretraining(
    vocabulary=400, width=16, layers=1, heads=2, mlp_width=16, context=256, batch=4, steps=3
)

FEW = 32


def silent(sentence: str) -> None:
    """Whoever is told something here keeps it to himself."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a model that has seen twelve answers."""
    folder = tmp_path_factory.mktemp("cache") / "tiny"
    said = []
    few = partial(distance_from_truth, size=FEW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "distance_from_truth", few)
        distance = pretrain.pretrain(folder, TINY, said.append)
    return folder, distance, said


@pytest.fixture(scope="module")
def loaded(made):
    """The decoder and the tokenizer, as anybody else would load them."""
    from transformers import AutoTokenizer

    return load_decoder(str(made[0]), dtype="float32"), AutoTokenizer.from_pretrained(made[0])


def test_what_is_written_is_a_folder_that_loads(made, loaded):
    decoder, tokenizer = loaded
    assert decoder.architecture.family == "llama"
    assert decoder.architecture.vocab_size == len(tokenizer)
    config = json.loads((made[0] / "config.json").read_text())
    assert config["eos_token_id"] == tokenizer.eos_token_id


def test_the_report_is_the_distance_that_the_loaded_model_has(made, loaded):
    folder, distance, said = made
    assert json.loads((folder / REPORT).read_text()) == distance
    again = distance_from_truth(*loaded, size=FEW)
    assert again.per_response == pytest.approx(distance["per_response"], rel=1e-5)
    assert f"{distance['per_token']:.3f} nats per token from the truth" in " ".join(said)


def test_a_model_that_knows_nothing_is_as_far_as_a_uniform_one(loaded):
    decoder, tokenizer = loaded
    ignorant = pretrain.with_parameters(
        decoder, {path: 0 * value for path, value in parameters(decoder).items()}
    )
    distance = distance_from_truth(ignorant, tokenizer, size=FEW)
    rows = demonstrations(pretrain.HELD_OUT_SEED, FEW, held_out=True)
    tokens = [group.scored for group in encode(rows, tokenizer, decoder.architecture)]
    truth = [language.log_probability(row["prompt"], row["completion"]) for row in rows]
    uniform = np.mean(tokens) * math.log(len(tokenizer)) + np.mean(truth)
    assert distance.per_response == pytest.approx(uniform, rel=1e-5)
    assert distance.per_token == pytest.approx(uniform / np.mean(tokens), rel=1e-5)


def test_log_probabilities_are_those_of_the_answers_asked_for(loaded):
    decoder, tokenizer = loaded
    groups = encode(demonstrations(7, 2), tokenizer, decoder.architecture)
    for group, logp in zip(groups, response_logp(decoder, groups), strict=True):
        tokens = np.concatenate((group.prompt, group.responses[0]))
        row = (
            jnp.zeros((1, decoder.architecture.max_positions), int).at[0, : len(tokens)].set(tokens)
        )
        ones = jnp.ones_like(row)
        hidden = decoder(row, jnp.arange(row.shape[1])[None], ones, 0 * ones)
        every = np.asarray(jax.nn.log_softmax(decoder.logits(hidden)))[0]
        expected = sum(every[i - 1, tokens[i]] for i in range(len(group.prompt), len(tokens)))
        assert logp == pytest.approx(expected, rel=1e-5)


def test_a_second_call_finds_what_the_first_one_made(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(pretrain, "pretrain", lambda folder, *_: calls.append(folder.mkdir()))
    (tmp_path / "embedded").mkdir()
    first = embedded_model(silent, tmp_path)
    assert embedded_model(silent, tmp_path) == first
    assert first.is_relative_to(tmp_path)
    assert len(calls) == 1


def test_another_setting_is_another_model():
    assert fingerprint(Pretraining()) == fingerprint(Pretraining())
    assert fingerprint(Pretraining()) != fingerprint(Pretraining(steps=1))


def test_what_is_interrupted_leaves_nothing_behind(monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "train", lambda decoder, *_: decoder)
    monkeypatch.setattr(pretrain, "save_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain(tmp_path / "model", TINY, silent)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_embedded_model_speaks_the_language(harbour_model):
    from transformers import AutoTokenizer

    report = json.loads((harbour_model / REPORT).read_text())
    assert report["per_token"] < 0.03
    decoder = load_decoder(str(harbour_model), dtype="float32", unroll=4)
    tokenizer = AutoTokenizer.from_pretrained(harbour_model)
    asked = [f"{question.text}\n" for question in language.questions(held_out=True)]
    prompts = [np.asarray(tokenizer(text)["input_ids"], np.int32) for text in asked]
    settings = Sampling(responses=2, temperature=0.7, stop=(tokenizer.eos_token_id,))
    said = [
        (prompt, tokenizer.decode(one.tokens, skip_special_tokens=True))
        for prompt, answers in zip(asked, sample(decoder, prompts, settings), strict=True)
        for one in answers
    ]
    share = np.mean([language.is_grammatical(response) for _, response in said])
    assert share > 0.9
