"""A response depends on its seed, prompt, index and position alone; its log-probs are the truth."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llm.logprobs import token_logprobs
from llm.model import Decoder, abstract_decoder, with_parameters
from llm.model.architecture import architecture_from_config
from llm.sampler import Sampling, programs, sample, stop_tokens, stream
from llm.sampler.draft import begin, grow, keep, write
from llm.sampler.draws import Rule, draw

SMALL = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
FAMILIES = {
    "gpt2": {"vocab_size": 61, "n_embd": 24, "n_head": 4, "n_layer": 2, "n_positions": 64},
    "llama": SMALL,
    "gemma2": {**SMALL, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8},
}
LENGTHS = (3, 17, 9, 1, 20, 16, 5)
# One value for most tests, because each other one is compiled for itself.
SETTINGS = Sampling(responses=3, max_new_tokens=12, temperature=0.7, seed=5, stop=(3, 8))


@functools.cache
def tiny(family: str = "llama") -> Decoder:
    """A random decoder with weights large enough that its next token is neither sure nor even."""
    shapes = abstract_decoder(architecture_from_config({"model_type": family, **FAMILIES[family]}))
    rng = np.random.default_rng(1)
    values = {}
    for path, leaf in nnx.to_flat_state(nnx.state(shapes, nnx.Param)):
        mean, shape = float(path[-1] == "scale"), leaf.get_value().shape
        values["/".join(map(str, path))] = rng.normal(mean, 0.25, shape).astype(np.float32)
    return with_parameters(shapes, jax.device_put(values))


def prompts(lengths: tuple[int, ...] = LENGTHS) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, 61, length).astype(np.int32) for length in lengths]


@jax.jit
def forward(decoder: Decoder, row: jax.Array) -> tuple[jax.Array, jax.Array]:
    zeros = jnp.zeros_like(row)
    hidden = decoder(row, jnp.arange(row.shape[1])[None], zeros + 1, zeros)[0]
    return hidden, decoder.logits(hidden)


def without_cache(decoder: Decoder, tokens: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Hidden states and logits of a sequence; what stands behind it cannot be seen from it."""
    return forward(decoder, np.pad(tokens, (0, 40 - len(tokens)))[None])


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_allclose(one.logp, other.logp, atol=1e-5)
        assert one.finished == other.finished


def test_a_response_depends_on_seed_prompt_index_and_position_alone():
    decoder, asked = tiny(), prompts()
    together = sample(decoder, asked, SETTINGS)
    backwards = sample(decoder, asked[::-1], SETTINGS, prompt_ids=range(len(asked))[::-1])
    # Each prompt alone, less padded, with other responses beside the one that is compared.
    alone = sample(
        decoder, asked, dataclasses.replace(SETTINGS, responses=2, max_new_tokens=6), rows=2
    )
    for index in range(len(asked)):
        assert_same(together[index], backwards[::-1][index])
        for ours, whole in zip(alone[index], together[index], strict=False):
            np.testing.assert_array_equal(ours.tokens, whole.tokens[:6])
            np.testing.assert_allclose(ours.logp, whole.logp[:6], atol=1e-5)


def test_another_seed_prompt_or_index_draws_other_tokens():
    same = [prompts()[1]] * 5
    settings = dataclasses.replace(SETTINGS, stop=(60, 60))
    groups = [
        group
        for seed in (0, 1)
        for group in sample(tiny(), same, dataclasses.replace(settings, seed=seed))
    ]
    assert len({tuple(answer.tokens) for group in groups for answer in group}) == 30


def test_greedy_is_the_argmax_without_a_cache():
    decoder = tiny("gpt2")
    settings = Sampling(max_new_tokens=11, temperature=0.0)
    asked = prompts((4, 18, 9))
    for prompt, [answer] in zip(asked, sample(decoder, asked, settings), strict=True):
        _, logits = without_cache(decoder, np.concatenate([prompt, answer.tokens]))
        likeliest = np.argmax(logits, axis=-1)[len(prompt) - 1 :][:11]
        np.testing.assert_array_equal(answer.tokens, likeliest)
        assert not answer.logp.any()


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_logp_is_what_the_log_prob_primitive_says(family):
    decoder = tiny(family)
    primitive = jax.jit(token_logprobs, static_argnames=("temperature", "softcap"))
    asked = prompts()
    for prompt, group in zip(asked, sample(decoder, asked, SETTINGS), strict=True):
        for answer in group:
            sequence = np.concatenate([prompt, answer.tokens])
            scored = primitive(
                without_cache(decoder, sequence)[0],
                decoder.output_matrix,
                jnp.arange(39),
                np.pad(sequence, (0, 40 - len(sequence)))[1:],
                np.array([39]),
                temperature=0.7,
                softcap=decoder.architecture.logits_softcap,
            )
            ours = np.asarray(scored.logp)[len(prompt) - 1 :][: len(answer.tokens)]
            np.testing.assert_allclose(answer.logp, ours, atol=1e-4)
            assert answer.logp.min() < -0.5


def test_a_response_ends_with_the_first_stop_token_or_at_the_limit():
    answers = [answer for group in sample(tiny(), prompts(), SETTINGS) for answer in group]
    assert {answer.finished for answer in answers} == {True, False}
    for answer in answers:
        assert not np.isin(answer.tokens[:-1], SETTINGS.stop).any()
        assert np.isin(answer.tokens[-1], SETTINGS.stop) == answer.finished
        assert len(answer.tokens) == len(answer.logp)
        assert answer.finished or len(answer.tokens) == 12


def test_a_stream_is_the_sample_in_pieces():
    settings = dataclasses.replace(SETTINGS, responses=1)
    lengths = set()
    for number, prompt in enumerate(prompts((5, 9, 2, 7))):
        whole = sample(tiny(), [prompt], settings, prompt_ids=[number])[0][0]
        pieces = list(stream(tiny(), prompt, settings, prompt_id=number, segment=5))
        np.testing.assert_array_equal(np.concatenate(pieces), whole.tokens)
        assert all(len(piece) == 5 for piece in pieces[:-1])
        lengths.add(len(whole.tokens))
    assert len(lengths) > 1


def reference(logits: np.ndarray, rule: Rule) -> np.ndarray:
    """Log-probabilities after temperature, top-k and top-p, the slow way."""
    scaled = logits.astype(np.float64) / rule.temperature
    order = np.argsort(-scaled)
    if rule.top_k:
        order = order[: rule.top_k]
    p = np.exp(scaled[order] - scaled.max())
    p /= p.sum()
    kept = order[np.cumsum(p) - p < rule.top_p]
    logp = np.full(len(logits), -np.inf)
    logp[kept] = scaled[kept] - np.log(np.exp(scaled[kept]).sum())
    return logp


@pytest.mark.parametrize(
    "rule",
    [
        Rule(),
        Rule(temperature=0.5),
        Rule(top_k=5),
        Rule(top_p=0.8),
        Rule(temperature=1.5, top_k=40, top_p=0.7),
        Rule(top_k=1000, top_p=0.01),
    ],
)
def test_draws_have_the_frequencies_and_the_logp_of_the_truncated_distribution(rule):
    rng = np.random.default_rng(2)
    logits = (2 * rng.normal(size=300)).astype(np.float32)
    truth, n = reference(logits, rule), 20_000
    uniform = jax.random.uniform(jax.random.key(0), (n, 2))
    token, logp = draw(jnp.broadcast_to(logits[None], (n, 300)), uniform, rule)
    np.testing.assert_allclose(logp, truth[np.asarray(token)], atol=1e-5)
    p = np.exp(truth)
    off = np.bincount(token, minlength=300) - n * p
    assert np.abs(off).max() <= 5 * np.sqrt(n * (p * (1 - p)).max())
    assert (off**2 / np.maximum(n * p, 1e-9))[p > 0].sum() < (p > 0).sum() + 5 * 300**0.5


def test_a_token_without_probability_is_never_drawn():
    # The two ends of the vocabulary, and the two ends of the unit interval.
    logits = np.full((4, 300), -np.inf, np.float32)
    logits[:, [131, 140]] = [0.0, -20.0]
    last = np.nextafter(np.float32(1), np.float32(0))
    uniform = np.array([(0, 0), (0, last), (last, 0), (last, last)], np.float32)
    token, _ = draw(jnp.asarray(logits), jnp.asarray(uniform), Rule())
    assert set(np.asarray(token)) <= {131, 140}


def test_programs_are_compiled_for_padded_sizes_and_not_for_each_batch():
    sample(tiny(), prompts(), SETTINGS)
    compiled = begin._cache_size(), write._cache_size()
    for lengths in ((32, 2, 3, 4, 5), (18, 12, 3, 9, 1, 1, 1, 25)):
        sample(tiny(), prompts(lengths), dataclasses.replace(SETTINGS, seed=len(lengths)))
    assert (begin._cache_size(), write._cache_size()) == compiled


def test_sampling_makes_no_implicit_transfer():
    with jax.transfer_guard("disallow"):
        sample(tiny(), prompts(), SETTINGS)


def test_broken_weights_are_reported():
    broken = with_parameters(tiny(), {"norm/scale": jnp.full(24, jnp.nan, jnp.float32)})
    with pytest.raises(ValueError, match="not finite"):
        sample(broken, prompts(), SETTINGS)
    _, logp = draw(jnp.full((1, 61), jnp.nan), jnp.zeros((1, 2)), Rule(temperature=0.0))
    assert np.isnan(logp).all()


@pytest.mark.parametrize(
    ("prompt", "settings", "words"),
    [
        (
            np.arange(60),
            {"max_new_tokens": 8},
            "prompt 1 has 60 .* context of 64; shorten it to 56",
        ),
        (np.arange(3), {"max_new_tokens": 64}, "lower max_new_tokens"),
        (np.arange(0), {}, "prompt 1 is empty"),
        (np.array([4, 61]), {}, "prompt 1 holds the token 61"),
        (np.array([4, -1]), {}, "prompt 1 holds the token -1"),
        (np.arange(3), {"stop": (99,)}, "stop token 99"),
    ],
)
def test_a_prompt_that_cannot_be_continued_is_refused(prompt, settings, words):
    settings = Sampling(**{"max_new_tokens": 2, **settings})
    with pytest.raises(ValueError, match=words):
        sample(tiny(), [np.array([1]), prompt.astype(np.int32)], settings)


@pytest.mark.parametrize(
    "wrong",
    [
        {"responses": 0},
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"seed": -1},
    ],
)
def test_a_setting_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match=f"Sampling.{next(iter(wrong))}"):
        Sampling(**wrong)


@pytest.mark.parametrize("ids", [[0], [0, -1]])
def test_prompt_ids_are_one_number_for_each_prompt(ids):
    with pytest.raises(ValueError, match="prompt_ids"):
        sample(tiny(), prompts((3, 4)), Sampling(), prompt_ids=ids)


def test_stop_tokens_are_those_of_the_folder_and_of_the_tokenizer(tmp_path):
    assert stop_tokens(tmp_path, None) == ()
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 2]}))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 9}))
    assert stop_tokens(tmp_path, 2) == (2, 7, 9)
