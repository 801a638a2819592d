"""The log-prob primitive against the whole table of logits, and what it must never do.

Key to the axes: M hidden states, P scored tokens, V vocabulary, D model, E the reference's model.
"""

import functools
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from llm.logprobs import default_chunk, token_logprobs
from objectives import divergences
from tests.simulated import on_devices

FIELDS = ("logp", "entropy", "forward_kl", "reverse_kl", "ref_logp")


class Problem(NamedTuple):
    """Two heads and the tokens they are asked about.

    The last three tokens are padding, and no token reads the last hidden state.
    """

    hidden: jax.Array
    matrix: jax.Array
    ref_hidden: jax.Array
    ref_matrix: jax.Array
    source: jax.Array
    target: jax.Array
    counts: jax.Array
    arriving: jax.Array


def problem(
    seed: int = 0, M: int = 10, D: int = 5, E: int = 4, V: int = 23, P: int = 20
) -> Problem:
    random = np.random.default_rng(seed)
    return Problem(
        *(jnp.asarray(random.normal(size=shape)) for shape in ((M, D), (V, D), (M, E), (V, E))),
        source=jnp.asarray(random.integers(M - 1, size=P), jnp.int32),  # many share one
        target=jnp.asarray(random.integers(V, size=P), jnp.int32),
        counts=jnp.asarray([P - 3], jnp.int32),
        arriving=jnp.asarray(random.normal(size=(5, P))),
    )


def ours(at: Problem, **options: Any) -> Any:
    """Everything the primitive can tell, of tokens in chunks of four."""
    options = {"chunk": 4, "entropy": True, "reference": at[2:4]} | options
    return token_logprobs(*at[:2], *at[4:7], **options)


def dense(at: Problem, temperature: Any = 1.0, softcap: float | None = None) -> list[jax.Array]:
    """The same from the whole table, by the functions that the bandit is scored with."""

    def table(hidden: jax.Array, matrix: jax.Array) -> jax.Array:
        z = hidden[at.source] @ matrix.T
        z = z if softcap is None else softcap * jnp.tanh(z / softcap)
        return jax.nn.log_softmax(z / temperature)

    def chosen(logp: jax.Array) -> jax.Array:
        return jnp.take_along_axis(logp, at.target[:, None], axis=1)[:, 0]

    logp, ref_logp = table(*at[:2]), table(*at[2:4])
    found = (
        chosen(logp),
        divergences.entropy(logp),
        divergences.forward_kl(logp, ref_logp),
        divergences.reverse_kl(logp, ref_logp),
        chosen(ref_logp),
    )
    return [jnp.where(jnp.arange(len(at.source)) < at.counts[0], x, 0) for x in found]


# Compiled once for all tests, since to build a program takes longer than to run it.
@functools.partial(jax.jit, static_argnames=("statistics", "softcap", "chunk"))
def told(at: Problem, temperature: Any = 1.0, *, statistics: Any = ours, **options: Any) -> Any:
    """All statistics, and the gradients of their sum weighted by what arrives for each."""

    def pulled(hidden: jax.Array, matrix: jax.Array) -> Any:
        moved = at._replace(hidden=hidden, matrix=matrix)
        found = tuple(statistics(moved, temperature=temperature, **options))
        return sum(jnp.vdot(g, x) for g, x in zip(at.arriving, found, strict=True)), found

    (_, found), gradients = jax.value_and_grad(pulled, (0, 1), has_aux=True)(*at[:2])
    return found, gradients


def all_close(got: Any, want: Any, atol: float) -> None:
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, atol=atol, rtol=2e-6)


def in_float32(at: Problem) -> Problem:
    return Problem(*(x.astype(jnp.float32) if x.dtype == jnp.float64 else x for x in at))


HEADS = [(1.0, None), (0.7, None), (1.0, 2.0), (1.3, 2.0)]
heads = pytest.mark.parametrize(("temperature", "softcap"), HEADS)


@heads
def test_statistics_and_gradients_are_those_of_the_whole_table(x64, temperature, softcap):
    at = problem()
    want = told(at, temperature, statistics=dense, softcap=softcap)
    assert min(np.abs(x).max() for x in jax.tree.leaves(want)) > 0.1  # something to get wrong
    all_close(told(at, temperature, softcap=softcap), want, atol=1e-10)
    single = told(in_float32(at), jnp.float32(temperature), softcap=softcap)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(single))
    all_close(single, want, atol=1e-5)


@pytest.mark.parametrize("field", FIELDS)
def test_a_statistic_alone_has_the_gradient_it_has_among_others(x64, field):
    # Each leaves another set of terms out of the backward pass.
    at = problem(2)
    i = FIELDS.index(field)
    only = at._replace(arriving=jnp.where(jnp.arange(5)[:, None] == i, at.arriving, 0))

    def alone(hidden, matrix):
        found = ours(at._replace(hidden=hidden, matrix=matrix), temperature=1.0)
        return jnp.vdot(at.arriving[i], getattr(found, field))

    _, want = told(only)
    assert np.any(want[0]) == (field != "ref_logp")
    all_close(jax.jit(jax.grad(alone, (0, 1)))(*at[:2]), want, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 17, None])
def test_the_chunk_changes_nothing(x64, chunk):
    at = problem(3)
    all_close(told(at, chunk=chunk), told(at), atol=1e-12)


def test_the_order_of_tokens_changes_nothing(x64):
    at = problem(4)
    order = np.r_[np.random.default_rng(0).permutation(17), 17:20]
    moved = at._replace(
        source=at.source[order], target=at.target[order], arriving=at.arriving[:, order]
    )
    found, gradients = told(moved)
    want, want_gradients = told(at)
    all_close(found, [x[order] for x in want], atol=1e-12)
    all_close(gradients, want_gradients, atol=1e-12)


def test_nothing_scored_is_zero_with_zero_gradient():
    at = in_float32(problem(5))._replace(counts=jnp.zeros(1, jnp.int32))
    assert not any(np.any(x) for x in jax.tree.leaves(told(at)))


def test_what_lies_beyond_the_count_reaches_neither_value_nor_gradient():
    at = in_float32(problem(6))
    unread = at.hidden.shape[0] - 1
    poisoned = at._replace(
        hidden=at.hidden.at[unread].set(jnp.nan),
        ref_hidden=at.ref_hidden.at[unread].set(jnp.nan),
        source=at.source.at[17:].set(jnp.array([unread, -1, 10**6])),
        target=at.target.at[17:].set(jnp.array([-1, 10**6, 0])),
        arriving=at.arriving.at[:, 17:].set(jnp.nan),
    )
    for got, want in zip(*map(jax.tree.leaves, (told(poisoned), told(at))), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_target_outside_the_vocabulary_is_impossible():
    at = in_float32(problem())
    (logp, *_, ref_logp), _ = told(at._replace(target=at.target.at[0].set(23).at[1].set(-1)))
    assert logp[0] == logp[1] == ref_logp[0] == -np.inf


@heads
def test_a_policy_that_is_its_reference_has_no_divergence_and_no_pull(temperature, softcap):
    at = in_float32(problem(7))
    at = at._replace(hidden=3 * at.hidden)
    arriving = jnp.zeros((5, 20)).at[2:4].set(at.arriving[2:4])  # the KLs only
    at = at._replace(ref_hidden=at.hidden, ref_matrix=at.matrix, arriving=arriving)
    found, gradients = told(at, temperature, softcap=softcap)
    all_close(found[2:4], [jnp.zeros(20)] * 2, atol=2e-6)
    all_close(gradients, [jnp.zeros_like(x) for x in at[:2]], atol=2e-5)


def test_indifference_has_the_entropy_of_a_uniform_choice():
    at = in_float32(problem())._replace(hidden=jnp.zeros((10, 5)))
    (logp, entropy, *_), _ = told(at)
    np.testing.assert_allclose(entropy[:17], np.log(23), rtol=1e-6)
    np.testing.assert_allclose(logp[:17], -np.log(23), rtol=1e-6)


def test_logits_of_any_size_neither_overflow_nor_cancel():
    at = in_float32(problem())
    at = at._replace(matrix=at.matrix.at[:, 0].set(0))
    shifted = at._replace(  # the same constant on every logit
        hidden=at.hidden.at[:, 0].set(1000), matrix=at.matrix.at[:, 0].set(1)
    )
    # A float32 logit of 1000 holds no more digits.
    all_close(told(shifted)[0], told(at)[0], atol=3e-4)


def test_neither_temperature_nor_reference_takes_a_gradient():
    at = in_float32(problem())

    def everything(temperature, reference):
        return sum(jnp.sum(x) for x in ours(at, temperature=temperature, reference=reference))

    gradients = jax.jit(jax.grad(everything, (0, 1)))(0.7, at[2:4])
    assert not any(np.any(g) for g in jax.tree.leaves(gradients))


def test_what_was_not_asked_for_is_none():
    at = in_float32(problem())
    found = jax.jit(lambda at: ours(at, entropy=False, reference=None))(at)
    assert found[1:] == (None, None, None, None)
    np.testing.assert_allclose(found.logp, told(at)[0][0], atol=1e-6)


def test_bfloat16_inputs_keep_the_log_probability_of_a_response():
    key = jax.random.split(jax.random.key(0), 3)
    hidden = jax.random.normal(key[0], (512, 128)).astype(jnp.bfloat16)
    matrix = (jax.random.normal(key[1], (1024, 128)) / 4).astype(jnp.bfloat16)
    target = jax.random.randint(key[2], (512,), 0, 1024)
    rest = (jnp.arange(512), target, jnp.array([512]))
    truth = token_logprobs(hidden.astype(jnp.float32), matrix.astype(jnp.float32), *rest).logp
    found = token_logprobs(hidden, matrix, *rest).logp
    assert found.dtype == jnp.float32
    assert abs(jnp.sum(found - truth)) < 1e-3
    np.testing.assert_allclose(found, truth, atol=1e-4)
    # The comparison has teeth: logits rounded to bfloat16 are a hundred times further off.
    rounded = jax.nn.log_softmax((hidden @ matrix.T).astype(jnp.float32))
    naive = jnp.take_along_axis(rounded, target[:, None], axis=1)[:, 0]
    assert jnp.max(jnp.abs(naive - truth)) > 1e-2


def test_a_float32_matrix_gets_a_float32_gradient_from_bfloat16_states():
    at = in_float32(problem(8))

    _, got = told(at._replace(hidden=at.hidden.astype(jnp.bfloat16)))
    assert [g.dtype for g in got] == [jnp.bfloat16, jnp.float32]
    all_close(got, told(at)[1], atol=0.1)


def products(function: Any, *arguments: Any) -> int:
    """How many matrix products a function and its loops are written with."""
    return str(jax.make_jaxpr(function)(*arguments)).count("dot_general[")


def test_what_nobody_differentiates_costs_no_product():
    at = in_float32(problem())

    def loss(hidden, matrix, read=("logp",)):
        found = ours(at._replace(hidden=hidden, matrix=matrix))
        return sum(jnp.sum(getattr(found, field)) for field in read)

    score = functools.partial(loss, *at[:2])
    assert products(score) == 2  # policy and reference, once each
    assert products(jax.grad(loss), *at[:2]) == 2 + 2  # logits again, and their way to hidden
    assert products(jax.grad(loss, 1), *at[:2]) == 2 + 2
    assert products(jax.grad(loss, (0, 1)), *at[:2]) == 2 + 3
    # Only the gradient of a KL needs the reference's logits again.
    against = functools.partial(loss, read=("reverse_kl",))
    assert products(jax.grad(against, (0, 1)), *at[:2]) == 2 + 4
    frozen = jax.grad(lambda hidden: loss(hidden, jax.lax.stop_gradient(at.matrix)))
    assert products(frozen, at.hidden) == 2 + 2


P, D = 4096, 32


def temporary_bytes(words: int, differentiated: tuple[int, ...]) -> int:
    """Scratch memory of the compiled value and gradients, 4096 tokens over a vocabulary."""

    def loss(hidden, matrix, source, target, count):
        return jnp.sum(token_logprobs(hidden, matrix, source, target, count).logp)

    shapes = [((P, D), jnp.float32), ((words, D), jnp.float32)]
    shapes += [((P,), jnp.int32), ((P,), jnp.int32), ((1,), jnp.int32)]
    inputs = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    compiled = jax.jit(jax.value_and_grad(loss, differentiated)).lower(*inputs).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


@pytest.mark.parametrize("words", [16_384, 131_072])
def test_memory_does_not_grow_with_tokens_times_vocabulary(words):
    # Logits and what flows back to them exist for one chunk; the rest is some numbers per token.
    per_token = 4 * P * (D + 16)
    chunk = min(default_chunk(words, "cpu"), P)
    bound = 2 * 4 * chunk * words + per_token
    frozen = temporary_bytes(words, (0,))
    assert frozen <= bound
    assert temporary_bytes(words, (0, 1)) <= bound + 4 * words * D
    assert frozen < 4 * P * words / 7  # the table alone would take seven times as much
    assert 4 * chunk * words <= 2**27


REFUSED = {
    "chunk is 0": {"chunk": 0},
    "softcap is -1.0": {"softcap": -1.0},
    "temperature is 0.0": {"temperature": 0.0},
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_number_that_makes_no_sense_is_refused(message):
    with pytest.raises(ValueError, match=message):
        ours(in_float32(problem()), **REFUSED[message])


def test_tokens_that_a_mesh_does_not_cut_evenly_are_refused():
    at = in_float32(problem())
    with pytest.raises(ValueError, match="count has 2 numbers"):
        ours(at._replace(counts=jnp.array([1, 1])))
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match=r"lacks \['fsdp', 'tensor'\]"):
        ours(at, mesh=mesh)


ON_EIGHT_DEVICES = """
import json, sys
from functools import partial
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType
from llm.logprobs import token_logprobs

jax.config.update("jax_numpy_rank_promotion", "raise")
assert jax.device_count() == 8
M, P, D, E = 16, 48, 5, 4


@partial(jax.jit, static_argnames="mesh")
def told(hidden, matrix, reference, rest, arriving, mesh=None):
    def loss(hidden, matrix):
        found = token_logprobs(hidden, matrix, *rest, reference=reference, entropy=True,
                               softcap=4.0, temperature=0.8, chunk=3, mesh=mesh)
        return sum(jnp.vdot(g, x) for g, x in zip(arriving, found)), tuple(found)
    return jax.value_and_grad(loss, (0, 1), has_aux=True)(hidden, matrix)


for V, *shape in json.loads(sys.argv[1]):
    mesh = jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    runs = shape[0] * shape[1]
    random = np.random.default_rng(V + runs)
    draw = lambda *size: random.normal(size=size).astype(np.float32)
    heads = draw(M, D), draw(V, D), (draw(M, E), draw(V, E))
    arriving = draw(5, P)
    source = random.integers(M // runs, size=P, dtype=np.int32)
    target = random.integers(V, size=P, dtype=np.int32)
    # Some run scores nothing and another everything, where there are several.
    count = random.integers(1, P // runs, size=runs, dtype=np.int32)
    count[-1], count[0] = 0, P // runs
    there = told(*heads, (source, target, count), arriving, mesh=mesh)
    # On one device the real tokens of all runs stand first, and rows count from the start.
    run = np.arange(P, dtype=np.int32) // (P // runs)
    real = np.arange(P) % (P // runs) < count[run]
    order = np.argsort(~real, kind="stable")
    row = source + run * (M // runs)
    rest = row[order], target[order], np.array([real.sum()], np.int32)
    (value, found), gradients = told(*heads, rest, arriving[:, order])
    here = (value, tuple(x[np.argsort(order)] for x in found)), gradients
    for got, want in zip(jax.tree.leaves(there), jax.tree.leaves(here), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5, err_msg=f"{V} {shape}")
try:
    told(heads[0][:15], heads[1], None, (source, target, count), arriving, mesh=mesh)
except ValueError as refusal:
    assert "hidden has length 15" in str(refusal), refusal
else:
    raise AssertionError("an uneven cut was accepted")
print("equal")
"""


ODD = [37, 2, 2, 2]  # a vocabulary that two devices cannot share
MESHES = [
    [[40, 2, 2, 2]],
    pytest.param([[40, 8, 1, 1], [40, 1, 1, 8], ODD], marks=pytest.mark.slow),
]


@pytest.mark.parametrize("meshes", MESHES)
def test_a_mesh_of_eight_devices_changes_neither_values_nor_gradients(meshes):
    answer = on_devices(8, "-c", ON_EIGHT_DEVICES, json.dumps(meshes))
    assert answer.stdout.strip().endswith("equal")
