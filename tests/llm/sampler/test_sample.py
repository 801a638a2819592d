"""A response depends on its seed, prompt, index and position alone; its log-probs are the truth."""

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llm.checkpoints.read import load_decoder
from llm.embedded import language
from llm.embedded.pretrain import encode
from llm.inputs import read_tokenizer
from llm.logprobs import token_logprobs
from llm.model import Decoder, abstract_decoder, parameters, with_parameters
from llm.model.architecture import architecture_from_config
from llm.sampler import LocalEngine, Sampling, programs, sample, sizes, stop_tokens, stream
from llm.sampler.draft import begin, grow, keep, write
from llm.sampler.draws import Rule, draw
from llm.sampler.strings import completed
from tests.simulated import on_devices

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
def tiny(family: str = "llama", unroll: int = 2) -> Decoder:
    """A random decoder with weights large enough that its next token is neither sure nor even."""
    architecture = architecture_from_config({"model_type": family, **FAMILIES[family]})
    shapes = abstract_decoder(architecture, unroll=unroll)
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


def assert_same(ours, theirs, rounding=1e-5):
    """The same tokens, and log-probabilities up to the rounding of another shape, in nats."""
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_allclose(one.logp, other.logp, atol=rounding)
        np.testing.assert_allclose(one.model_logp, other.model_logp, atol=rounding)
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
            for temperature, ours in ((0.7, answer.logp), (1.0, answer.model_logp)):
                scored = primitive(
                    without_cache(decoder, sequence)[0],
                    decoder.output_matrix,
                    jnp.arange(39),
                    np.pad(sequence, (0, 40 - len(sequence)))[1:],
                    np.array([39]),
                    temperature=temperature,
                    softcap=decoder.architecture.logits_softcap,
                )
                theirs = np.asarray(scored.logp)[len(prompt) - 1 :][: len(answer.tokens)]
                np.testing.assert_allclose(ours, theirs, atol=1e-4)
                assert ours.min() < -0.5


def test_the_models_own_logp_is_that_drawn_from_where_nothing_changes_the_distribution():
    settings = dataclasses.replace(SETTINGS, temperature=1.0)
    for group in sample(tiny(), prompts(), settings):
        for answer in group:
            np.testing.assert_array_equal(answer.logp, answer.model_logp)


def test_a_cut_response_is_what_a_lower_limit_would_have_left():
    shorter = dataclasses.replace(SETTINGS, max_new_tokens=5)
    for long, short in zip(
        sample(tiny(), prompts(), SETTINGS), sample(tiny(), prompts(), shorter), strict=True
    ):
        assert_same([answer.cut(5) for answer in long], short)


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


@pytest.fixture
def fine(monkeypatch):
    """Sizes so small that short responses to few prompts pass through many of them."""
    monkeypatch.setattr(sizes, "ROOM", 8)
    monkeypatch.setattr(sizes, "FEWEST", 2)
    monkeypatch.setattr(sizes, "SEGMENT", 3)


@pytest.fixture
def compiled() -> Iterator[Counter[str]]:
    """How many programs of each kind the compiler is asked for."""
    counts: Counter[str] = Counter()
    functions: dict[str, Any] = {"begin": begin, "write": write, "keep": keep, "grow": grow}
    for function in functions.values():
        function.clear_cache()

    def count(event: str, _: float, *, fun_name: str = "", **about: Any) -> None:
        name = fun_name.removeprefix("jit(").removesuffix(")")
        if event == "/jax/core/compile/backend_compile_duration" and name in functions:
            counts[name] += 1

    jax.monitoring.register_event_duration_secs_listener(count)
    yield counts
    jax.monitoring.unregister_event_duration_listener(count)


def test_rows_that_ended_are_left_behind_and_no_response_knows(fine, compiled):
    settings = dataclasses.replace(SETTINGS, responses=2, stop=(3, 8, 11, 20, 41))
    asked = prompts((3, 5, 9, 1, 14, 16, 5, 7))
    thinned = sample(tiny(), asked, settings)
    # A stop token that is named twice makes a program of the same shape, and ends nothing here.
    whole = sample(tiny(), asked, dataclasses.replace(settings, stop=(60,) * 5))
    most, found = programs([len(prompt) for prompt in asked], settings), dict(compiled)
    # It was thinned out and it grew, or this test would say nothing; and that was foreseen.
    assert set(found) == set(most) and found["write"] > 1, found
    assert all(found[name] <= len(most[name]) for name in most), (found, most)
    for group, full in zip(thinned, whole, strict=True):
        for ours, unstopped in zip(group, full, strict=True):
            size = len(ours.tokens)
            np.testing.assert_array_equal(ours.tokens, unstopped.tokens[:size])
            np.testing.assert_allclose(ours.logp, unstopped.logp[:size], atol=1e-5)
    # Other prompts of such lengths, and other seeds, need nothing more.
    others = prompts((2, 16, 8, 5, 3, 1, 12, 10))
    sample(tiny(), others, dataclasses.replace(settings, stop=(60,) * 5, seed=3))
    assert compiled == found


def test_the_number_of_rows_the_order_and_the_segment_change_no_response(monkeypatch):
    asked = prompts((5, 5, 9, 1))
    want = sample(tiny(), asked, SETTINGS, rows=64)
    for rows, segment in ((1, 12), (7, 1)):
        monkeypatch.setattr(sizes, "SEGMENT", segment)
        ids = list(range(4))[::-1]
        found = sample(tiny(), asked[::-1], SETTINGS, prompt_ids=ids, rows=rows)
        for ours, theirs in zip(found[::-1], want, strict=True):
            assert_same(ours, theirs)


def test_layers_apart_and_layers_stacked_write_the_same():
    for ours, theirs in zip(
        *(sample(tiny(unroll=unroll), prompts((5, 9)), SETTINGS) for unroll in (1, 2)), strict=True
    ):
        assert_same(ours, theirs)


def test_nothing_ends_a_response_before_its_least_length():
    decoder, asked = tiny(), prompts()
    settings = dataclasses.replace(SETTINGS, min_new_tokens=6)
    plain = sample(decoder, asked, dataclasses.replace(settings, min_new_tokens=0))
    assert min(len(answer.tokens) for group in plain for answer in group) <= 6
    for prompt, group in zip(asked, sample(decoder, asked, settings), strict=True):
        for answer in group:
            assert not np.isin(answer.tokens[:6], settings.stop).any()
            _, logits = without_cache(decoder, np.concatenate([prompt, answer.tokens]))
            for t in (0, 5):  # drawn from what was left
                left = np.array(logits[len(prompt) - 1 + t])
                left[list(settings.stop)] = -np.inf
                truth = reference(left, settings.rule)[answer.tokens[t]]
                np.testing.assert_allclose(answer.logp[t], truth, atol=1e-4)


def letters(tokens: Iterable[int]) -> str:
    """A text in which a token is one letter or two, so that a string may begin inside a token."""
    return "".join("abcde"[t % 5] * (1 + t % 2) for t in tokens)


def test_a_text_ends_a_response_with_the_token_that_completes_it(monkeypatch):
    monkeypatch.setattr(sizes, "SEGMENT", 3)
    asked, strings = prompts((5, 5, 9, 1)), ("dab", "ccb", "aaa")
    settings = dataclasses.replace(SETTINGS, stop_strings=strings)
    whole = sample(tiny(), asked, SETTINGS)
    found = sample(tiny(), asked, settings, decode=letters)
    ended = 0
    for group, full in zip(found, whole, strict=True):
        for ours, unstopped in zip(group, full, strict=True):
            sizes_ = range(1, len(unstopped.tokens) + 1)
            holds = (n for n in sizes_ if any(s in letters(unstopped.tokens[:n]) for s in strings))
            first = next(holds, None)
            ended += first is not None
            np.testing.assert_array_equal(ours.tokens, unstopped.tokens[:first])
            assert len(ours.logp) == len(ours.tokens)
            assert ours.finished == (first is not None or unstopped.finished)
    assert ended >= 3
    pieces = stream(tiny(), asked[0], settings, prompt_id=0, segment=5, decode=letters)
    np.testing.assert_array_equal(np.concatenate(list(pieces)), found[0][0].tokens)


def letter(tokens: list[int]) -> str:
    return "".join("abcdefghij"[t] for t in tokens)


@pytest.mark.parametrize(
    ("text", "least", "end"),
    [("abcab", 0, 2), ("abcab", 1, 2), ("abcab", 2, 5), ("cab", 3, None), ("cba", 0, None)],
)
def test_a_text_that_was_there_before_the_least_length_does_not_count(text, least, end):
    tokens = np.array(["abcdefghij".index(sign) for sign in text])
    assert completed(tokens, ("ab",), letter, least=least) == end


def test_stop_strings_need_the_text():
    with pytest.raises(ValueError, match=r"stop_strings is .*decode"):
        sample(tiny(), prompts((3,)), Sampling(stop_strings=("x",), max_new_tokens=2))


def test_an_engine_writes_with_the_weights_it_was_given_last():
    shapes = abstract_decoder(tiny().architecture, unroll=2)
    engine, asked = LocalEngine(shapes, rows=12), prompts((5, 9))
    engine.load(parameters(tiny()))
    want = sample(tiny(), asked, SETTINGS, prompt_ids=[4, 2])
    for ours, theirs in zip(engine.write(asked, SETTINGS, [4, 2]), want, strict=True):
        assert_same(ours, theirs)
    engine.load({"norm/scale": -tiny().norm.scale[...]})
    other = engine.write(asked, SETTINGS, [4, 2])
    assert any(
        a.tokens.tolist() != b.tokens.tolist() for a, b in zip(other[0], want[0], strict=True)
    )


ON_EIGHT_DEVICES = """
import jax, numpy as np
from llm.mesh import make_mesh, sharding
from llm.model import parameters, with_parameters
from llm.sampler import sample
from tests.llm.sampler.test_sample import SETTINGS, prompts, tiny

assert jax.device_count() == 8
decoder, mesh = tiny(), make_mesh(data=2, fsdp=2, tensor=2)
spread = with_parameters(decoder, {
    path: jax.device_put(np.asarray(value), sharding(mesh, path, value.shape))
    for path, value in parameters(decoder).items()
})
there = sample(spread, prompts((5, 9, 2)), SETTINGS)
for ours, theirs in zip(there, sample(decoder, prompts((5, 9, 2)), SETTINGS), strict=True):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_allclose(one.logp, other.logp, atol=1e-5)
print("same")
"""


@pytest.mark.slow
def test_eight_devices_write_what_one_writes():
    assert on_devices(8, "-c", ON_EIGHT_DEVICES).stdout.strip() == "same"


@pytest.mark.slow
def test_a_trained_model_writes_the_same_in_any_company(harbour_model):
    decoder = load_decoder(str(harbour_model), unroll=4)
    rows = language.demonstrations(5, 48)
    groups = encode(rows, read_tokenizer(harbour_model), decoder.architecture)
    asked = [group.prompt for group in groups]
    settings = Sampling(max_new_tokens=96, stop=(int(groups[0].responses[0][-1]),))
    want = sample(decoder, asked, settings, rows=64)
    ids = list(range(48))[::-1]
    for rows_ in (1, 7):
        found = sample(decoder, asked[::-1], settings, prompt_ids=ids, rows=rows_)[::-1]
        for ours, theirs in zip(found, want, strict=True):
            assert_same(ours, theirs, rounding=1e-4)


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
        {"min_new_tokens": 128},
        {"stop_strings": ("",)},
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
