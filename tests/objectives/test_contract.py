"""What every objective promises, whatever its formula: a new one is enrolled by existing."""

import dataclasses
import functools
import inspect
import itertools
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objectives
from objectives import OBJECTIVES, KLPenalty, Objective, Terms, scored
from tests.objectives.batches import B, Batch, N, T, draw, litter, loss_and_gradient, on_device
from tests.objectives.variations import CASES, DEFAULTS, Case
from tests.simulated import on_devices

COMPILED_QUICKLY = {"xla_backend_optimization_level": 0}
close = functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12)
float64 = pytest.mark.usefixtures("x64")
every_class = pytest.mark.parametrize("name", OBJECTIVES)
BY_NAME: dict[str, Any] = {type(case.objective).__name__: case.objective for case in DEFAULTS}
every_case = pytest.mark.parametrize(
    "case", [case for case in CASES if case.advantage == "token"], ids=str
)
every_default = pytest.mark.parametrize(
    "case", DEFAULTS, ids=lambda case: case.objective.__class__.__name__
)


def everything(terms: Terms) -> dict[str, Any]:
    """All sums of the terms, by name: what micro-batches and devices add up."""
    return {"loss": terms.total()} | {name: m.total() for name, m in terms.metrics.items()}


def same(left: Any, right: Any) -> None:
    jax.tree.map(close, left, right)


SEED = 5


@functools.cache
def outcome(case: Case) -> tuple[Terms, jax.Array, jax.Array]:
    """Terms, loss and gradient of the batch that the tests below change in some way."""
    with jax.enable_x64(True):
        return loss_and_gradient(case.objective, *on_device(draw(SEED, case.advantage)))


# An action is an action, however many tokens it is written in.

RESOLVES_TOKENS = {
    "SimPO": "the likelihood is averaged over tokens",
    "ORPO": "the likelihood is averaged over tokens",
    "PPO": "every token has a ratio, and a clip, of its own",
    "GSPO": "the ratio is the geometric mean over tokens",
}
"""The classes whose unit is not the action alone, and why."""


def sums_over_tokens(objective: Any) -> bool:
    """Whether an instance sees nothing of a response but the sum of its tokens."""
    kl = getattr(objective, "kl", KLPenalty(None))
    return (
        type(objective).__name__ not in RESOLVES_TOKENS
        and getattr(objective, "normalize", "response") == "response"
        and (kl.beta is None or kl.estimator == "k1")  # k2 and k3 are curved
        and getattr(objective, "entropy", 0.0) == 0.0  # so is the bonus
        and (type(objective).__name__ != "CPO" or objective.reg == 0)  # imitates per token
    )


def averages_over_tokens(objective: Any) -> bool:
    """Whether an instance sees a response's average over tokens only."""
    return (
        type(objective).__name__ in ("SimPO", "ORPO", "GSPO")
        or getattr(objective, "normalize", None) == "length"
    ) and getattr(objective, "entropy", 0.0) == 0.0


def one_response_each(seed: int = 3) -> Batch:
    """A batch whose advantage is per response and in which everything is scored."""
    batch = draw(seed, "response", garbage=0.3)
    return batch._replace(mask=np.ones_like(batch.mask), valid=np.ones_like(batch.valid))


@every_class
@float64
def test_an_action_split_into_tokens_is_the_same_action(name):
    able = [c.objective for c in CASES if type(c.objective).__name__ == name]
    able = [objective for objective in able if sums_over_tokens(objective)]
    assert able or name in RESOLVES_TOKENS
    split = one_response_each()
    first = np.arange(T) == 0

    def merged(x: np.ndarray) -> np.ndarray:
        return np.where(first, x.sum(axis=-1, keepdims=True), 0)

    whole = split._replace(
        mask=split.mask & first,
        logp=merged(split.logp),
        ref_logp=merged(split.ref_logp),
        old_logp=merged(split.old_logp),
    )
    for objective in able:
        terms, loss, gradient = loss_and_gradient(objective, *on_device(split))
        one_terms, one_loss, one_gradient = loss_and_gradient(objective, *on_device(whole))
        close(loss, one_loss)
        close(terms.value, one_terms.value)
        same(everything(terms), everything(one_terms))
        # Every token of the action is pushed as hard as the action is.
        np.testing.assert_allclose(
            gradient, np.repeat(one_gradient[..., :1], T, axis=-1), atol=1e-12
        )


@every_class
@float64
def test_a_repeated_token_is_the_same_average(name):
    able = [c.objective for c in CASES if type(c.objective).__name__ == name]
    able = [objective for objective in able if averages_over_tokens(objective)]
    if not able:
        assert name not in ("SimPO", "ORPO", "GSPO")
        return
    first = np.arange(T) == 0
    batch = one_response_each()
    repeated = batch._replace(
        logp=np.repeat(batch.logp[..., :1], T, axis=-1),
        ref_logp=np.repeat(batch.ref_logp[..., :1], T, axis=-1),
        old_logp=np.repeat(batch.old_logp[..., :1], T, axis=-1),
    )
    once = repeated._replace(mask=repeated.mask & first)
    for objective in able:
        _, loss, gradient = loss_and_gradient(objective, *on_device(repeated))
        _, one_loss, one_gradient = loss_and_gradient(objective, *on_device(once))
        close(loss, one_loss)
        close(gradient.sum(axis=-1), one_gradient.sum(axis=-1))


# What is not scored does not exist.

ANYTHING = (-1e9, 0.0, np.inf, -np.inf, 1e9, 0.1)
"""What may stand where nothing is scored, beside the NaN that stands there in every other test."""


@every_case
@float64
def test_nothing_reaches_through_the_mask(case):
    clean, clean_loss, clean_gradient = outcome(case)
    batch = draw(SEED, case.advantage, garbage=ANYTHING)
    terms, loss, gradient = loss_and_gradient(case.objective, *on_device(batch))
    np.testing.assert_array_equal(np.asarray(gradient)[~batch.scored], 0)
    everywhere = jax.tree.leaves((clean, terms))
    assert all(np.isfinite(leaf).all() for leaf in everywhere), "even where the weight is 0"
    assert loss == clean_loss
    np.testing.assert_array_equal(gradient, clean_gradient)
    np.testing.assert_array_equal(terms.weight, clean.weight)
    counted = np.asarray(clean.weight) != 0
    np.testing.assert_array_equal(
        np.asarray(terms.value)[counted], np.asarray(clean.value)[counted]
    )
    for name, metric in terms.metrics.items():
        np.testing.assert_array_equal(metric.total(), clean.metrics[name].total(), name)


@every_case
@float64
def test_only_the_policy_receives_a_gradient(case):
    logp, responses = on_device(draw(SEED, case.advantage))
    names = ["reward", "ref_logp", "old_logp"]
    names += [] if responses.advantage is None else ["advantage"]

    def loss(fields: dict[str, jax.Array], logp: jax.Array) -> jax.Array:
        return case.objective(logp, dataclasses.replace(responses, **fields)).mean()

    constants = {name: getattr(responses, name) for name in names}
    of_constants, of_policy = jax.grad(loss, argnums=(0, 1))(constants, logp)
    for name, gradient in of_constants.items():
        np.testing.assert_array_equal(gradient, 0, err_msg=name)
    assert np.abs(of_policy).max() > 0


@every_case
@float64
def test_a_batch_of_nothing_costs_nothing(case):
    batch = draw(1, case.advantage, garbage=0.4)
    half = np.arange(B) < B // 2
    nobody = batch._replace(
        valid=batch.valid & ~half[:, None], mask=batch.mask & half[:, None, None]
    )
    terms, loss, gradient = loss_and_gradient(case.objective, *on_device(litter(nobody, np.nan)))
    assert loss == 0
    assert not np.asarray(gradient).any()
    assert all(metric.mean() == 0 for metric in terms.metrics.values())


COMPARES = {"PrefFT", "UnlikelihoodBestOfN", "DPO", "IPO", "SLiC", "SimPO", "CPO", "ORPO"}
"""The classes that need two different rewards in a group; KTO does with ``"group_mean"``."""


@every_case
@float64
def test_where_nothing_can_be_preferred_the_loss_and_gradient_are_zero(case):
    compares = type(case.objective).__name__ in COMPARES
    compares |= getattr(case.objective, "threshold", None) == "group_mean"
    # Half of the groups are tied, the other half hold one response.
    batch = draw(1, case.advantage, garbage=0.4)
    half = np.arange(B)[:, None] < B // 2
    tied = batch._replace(
        reward=np.where(half, 0.7, batch.reward), valid=half | (np.arange(N) == 1)[None, :]
    )
    _, loss, gradient = loss_and_gradient(case.objective, *on_device(litter(tied, np.nan)))
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    assert np.asarray(gradient).any() != compares
    assert loss == 0 or not compares


@float64
def test_valid_none_means_that_every_response_is_real():
    logp, responses = on_device(draw(2, garbage=0.3))
    everyone = dataclasses.replace(responses, valid=jnp.ones((B, N), bool))
    nobody_said = dataclasses.replace(responses, valid=None)
    np.testing.assert_array_equal(everyone.exists, nobody_said.exists)
    np.testing.assert_array_equal(nobody_said.exists, np.asarray(responses.mask).any(axis=-1))
    dpo = objectives.DPO()
    same(everything(dpo(logp, everyone)), everything(dpo(logp, nobody_said)))


# The batch is a set of groups, and a group a set of responses.


@every_case
@float64
def test_the_order_of_groups_and_responses_means_nothing(case):
    # Without ties inside a group, because the first among equals depends on the order.
    rng = np.random.default_rng(0)
    batch = draw(SEED, case.advantage)
    distinct = batch._replace(reward=batch.reward + rng.uniform(0, 1e-3, (B, N)))
    order_of_groups = rng.permutation(B)
    members = np.argsort(rng.random((B, N)), axis=-1)

    def shuffled(x: np.ndarray | None) -> np.ndarray | None:
        if x is None:
            return None
        order = members if x.ndim == 2 else members[..., None]
        return np.take_along_axis(x, order, axis=1)[order_of_groups]

    moved = Batch(*(shuffled(x) for x in distinct))
    terms, loss, gradient = loss_and_gradient(case.objective, *on_device(distinct))
    moved_terms, moved_loss, moved_gradient = loss_and_gradient(case.objective, *on_device(moved))
    close(loss, moved_loss)
    close(shuffled(np.asarray(gradient)), moved_gradient)
    same(everything(terms), everything(moved_terms))


# Sums are exact, so how a batch is cut, compiled or spread out changes nothing.


def sums_and_gradient(objective: Objective, logp: jax.Array, responses: Any) -> Any:
    """All sums of a batch, and the gradient of the loss's: what adds up over micro-batches."""

    def total(logp: jax.Array) -> tuple[jax.Array, Any]:
        sums = everything(objective(logp, responses))
        return sums["loss"][0], sums

    gradient, sums = jax.grad(total, has_aux=True)(logp)
    return sums, gradient


def given_a_reference_point(objective: Any) -> Any:
    """KTO's reference point is the mean of its batch, unless it is given."""
    if hasattr(objective, "reference_point"):
        return dataclasses.replace(objective, reference_point=0.1)
    return objective


def groups(batch: Batch, start: int, stop: int) -> Batch:
    """A piece of a batch, cut to size."""
    return Batch(*(None if x is None else x[start:stop] for x in batch))


def only_groups(batch: Batch, start: int, stop: int) -> Batch:
    """A piece of a batch, padded to its old size with groups that are not there."""
    inside = (np.arange(B) >= start) & (np.arange(B) < stop)
    return litter(batch._replace(valid=batch.valid & inside[:, None]), np.nan)


def adds_up(whole: tuple[Terms, jax.Array, jax.Array], pieces: list[Any]) -> None:
    """The sums of the pieces, divided once, are the outcome of the batch."""
    terms, loss, gradient = whole
    sums = jax.tree.map(lambda *parts: sum(parts), *(sums for sums, _ in pieces))
    same(sums, everything(terms))
    total, weight = sums["loss"]
    close(total / weight, loss)
    close(sum(np.asarray(part) for _, part in pieces) / weight, gradient)


CUTS = [(0, 2), (2, B)]


@every_case
@float64
def test_micro_batches_add_up_to_the_batch(case):
    case = case._replace(objective=given_a_reference_point(case.objective))
    parts = [only_groups(draw(SEED, case.advantage), *ends) for ends in CUTS]
    adds_up(outcome(case), [sums_and_gradient(case.objective, *on_device(part)) for part in parts])


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("DPO", "PPO") else pytest.param(name, marks=pytest.mark.slow)
        for name in OBJECTIVES
    ],
)
@float64
def test_micro_batches_of_uneven_size_add_up_to_the_batch(name):
    case, batch = Case(given_a_reference_point(BY_NAME[name]), "token"), draw(SEED)
    program = jax.jit(sums_and_gradient, compiler_options=COMPILED_QUICKLY)
    pieces = [program(case.objective, *on_device(groups(batch, *ends))) for ends in CUTS]
    sizes = [np.shape(gradient)[0] for _, gradient in pieces]
    assert sizes == [2, 5]
    whole = [np.zeros((B, N, T)), np.zeros((B, N, T))]
    whole[0][:2], whole[1][2:] = pieces[0][1], pieces[1][1]
    adds_up(outcome(case), [(sums, g) for (sums, _), g in zip(pieces, whole, strict=True)])


@float64
def test_a_mean_of_means_would_not_add_up():
    # The pieces of the test above are uneven enough to tell.
    batch = draw(SEED)
    for objective in (objectives.SFT(), objectives.DPO(), objectives.PPO()):
        means = [objective(*on_device(only_groups(batch, *ends))).mean() for ends in CUTS]
        assert not np.isclose(np.mean(means), objective(*on_device(batch)).mean(), rtol=1e-6)


@float64
def test_without_a_reference_point_kto_looks_at_its_whole_batch():
    logp, responses = on_device(draw(7))
    beyond = dataclasses.replace(responses, ref_logp=responses.ref_logp.at[1:].add(-1.0))
    free, given = objectives.KTO(), objectives.KTO(reference_point=0.1)
    assert free(logp, responses).value[0, 0] != free(logp, beyond).value[0, 0]
    assert given(logp, responses).value[0, 0] == given(logp, beyond).value[0, 0]


FACTORS = (1.0, 0.7, 1.4)


@functools.cache
def sweep() -> tuple[dict[str, Any], int]:
    """Every objective at three settings of all its numbers, and how often that was traced."""
    traces = []

    def program(objectives: dict[str, Objective], factor: jax.Array, inputs: Any) -> Any:
        traces.append(factor)
        scaled = jax.tree.map(lambda number: number * factor, objectives)
        return {name: everything(objective(*inputs)) for name, objective in scaled.items()}

    with jax.enable_x64(True):
        inputs = on_device(draw(8))
        swept = jax.vmap(program, in_axes=(None, 0, None))
        compiled = jax.jit(swept, compiler_options=COMPILED_QUICKLY)
        compiled(BY_NAME, jnp.asarray([0.9, 1.1, 1.2]), inputs)
        return compiled(BY_NAME, jnp.asarray(FACTORS), inputs), len(traces)


@every_class
@float64
def test_a_sweep_over_numbers_is_one_program_and_equals_the_loop(name):
    swept, traces = sweep()
    assert traces == 1
    for i, factor in enumerate(FACTORS):
        objective = jax.tree.map(lambda number, factor=factor: number * factor, BY_NAME[name])
        alone = everything(objective(*on_device(draw(8))))
        same(jax.tree.map(lambda x, i=i: x[i], swept[name]), alone)


def sharded(names: list[str]) -> dict[str, Any]:
    """Objectives with their groups spread over all devices; runs in a process that has many."""
    jax.config.update("jax_enable_x64", True)
    mesh = jax.make_mesh((jax.device_count(),), ("B",), (jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("B"))
    batch = draw(9, garbage=0.0)
    # One more group, which is not there, so that the groups divide evenly among the devices.
    padded = Batch(*(np.concatenate([x, np.zeros_like(x[:1])]) for x in batch))
    inputs = jax.device_put(on_device(padded), spread)

    def program(inputs: Any) -> dict[str, Any]:
        return {name: sums_and_gradient(BY_NAME[name], *inputs) for name in names}

    return jax.jit(program, compiler_options=COMPILED_QUICKLY)(inputs)


@functools.cache
def from_many_devices(*names: str) -> dict[str, Any]:
    script = """
import json, sys, jax
from tests.objectives.test_contract import sharded
assert jax.device_count() == 4
print(json.dumps(jax.tree.map(lambda x: x.tolist(), sharded(sys.argv[1:]))))
"""
    return json.loads(on_devices(4, "-W", "error", "-c", script, *names).stdout)


SPREAD_BY_DEFAULT = ("AWR", "DPO", "KTO", "PPO")


@pytest.mark.parametrize(
    "name",
    [
        name if name in SPREAD_BY_DEFAULT else pytest.param(name, marks=pytest.mark.slow)
        for name in OBJECTIVES
    ],
)
@float64
def test_groups_spread_over_devices_change_nothing(name):
    together = SPREAD_BY_DEFAULT
    if name not in together:
        together = tuple(other for other in OBJECTIVES if other not in SPREAD_BY_DEFAULT)
    sums, gradient = from_many_devices(*together)[name]
    terms, _, alone = loss_and_gradient(BY_NAME[name], *on_device(draw(9)))
    for metric, total in everything(terms).items():
        close(sums[metric], total, err_msg=metric)
    close(np.asarray(gradient)[:B] / sums["loss"][1], alone)
    np.testing.assert_array_equal(np.asarray(gradient)[B:], 0)


# Precision.


def dtypes(case: Case, dtype: Any) -> set[Any]:
    """Of everything an objective returns, found without computing it."""
    logp, responses = on_device(draw(0, case.advantage), dtype)

    def outcome(logp: jax.Array) -> tuple[Terms, jax.Array]:
        terms = case.objective(logp, responses)
        return terms, terms.mean()

    return {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(outcome, logp))}


@every_case
def test_results_have_the_precision_of_logp_but_at_least_float32(case):
    # That doubles stay doubles is asserted wherever a closed form is.
    assert dtypes(case, jnp.bfloat16) == {jnp.dtype("float32")}


@every_default
@float64
def test_doubles_elsewhere_do_not_widen_a_float32_policy(case):
    logp, responses = on_device(draw(0, case.advantage))
    terms = jax.eval_shape(case.objective, logp.astype(jnp.float32), responses)
    assert {leaf.dtype for leaf in jax.tree.leaves(terms)} == {jnp.dtype("float32")}


def test_the_gradient_of_a_bfloat16_policy_is_bfloat16():
    logp, responses = on_device(draw(0), jnp.bfloat16)
    for case in DEFAULTS:
        gradient = jax.eval_shape(
            jax.grad(lambda logp, o=case.objective: o(logp, responses).mean()), logp
        )
        assert gradient.dtype == jnp.bfloat16


def test_rewards_keep_their_own_precision_so_that_ties_stay_ties():
    # 0.7 and 0.701 are one number in bfloat16; the policy's precision must not merge them.
    logp, responses = on_device(one_response_each(), jnp.float32)
    close_rewards = jnp.broadcast_to(jnp.asarray([[0.7, 0.701, 0.7, 0.7]]), (B, N))
    responses = dataclasses.replace(responses, reward=close_rewards)
    count = jax.jit(lambda logp: objectives.DPO()(logp, responses).total()[1])
    assert count(logp.astype(jnp.bfloat16)) == 3 * B


# An objective is a value: numbers are leaves, words are structure.


@every_case
def test_an_objective_survives_flattening(case):
    leaves, structure = jax.tree.flatten(case.objective)
    assert jax.tree.unflatten(structure, leaves) == case.objective
    assert all(isinstance(leaf, float | int) and not isinstance(leaf, bool) for leaf in leaves)
    assert hash(structure) == hash(jax.tree.structure(jax.tree.unflatten(structure, leaves)))


@every_class
def test_numbers_are_leaves_by_name_and_words_are_structure(name):
    objective = BY_NAME[name]
    for field in dataclasses.fields(objective):
        value = getattr(objective, field.name)
        if isinstance(value, str | bool):
            here = {path[0].name for path, _ in jax.tree_util.tree_leaves_with_path(objective)}
            assert field.name not in here
        elif isinstance(value, float | int):
            other = dataclasses.replace(objective, **{field.name: value + 0.01})
            assert jax.tree.structure(other) == jax.tree.structure(objective)
            assert jax.tree.leaves(other) != jax.tree.leaves(objective)


@every_class
def test_another_word_is_another_program_and_another_number_is_not(name):
    instances = [case.objective for case in CASES if type(case.objective).__name__ == name]
    for one, other in itertools.combinations(instances, 2):
        same_words = repr(jax.tree.map(lambda _: 0, one)) == repr(jax.tree.map(lambda _: 0, other))
        assert (jax.tree.structure(one) == jax.tree.structure(other)) == same_words


@every_case
def test_printing_an_objective_gives_the_code_that_makes_it(case):
    names = vars(objectives) | {"inf": math.inf}
    assert eval(repr(case.objective), names) == case.objective


@every_class
def test_an_objective_cannot_be_changed_in_place(name):
    objective = BY_NAME[name]
    for field in dataclasses.fields(objective):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(objective, field.name, None)


nan = math.nan
NOT_POSITIVE = (0.0, -0.1, nan)
NEGATIVE = (-0.1, nan)
WORDS = ("tokens", "")
REFUSED: dict[str, dict[str, tuple[Any, ...]]] = {
    "SFT": {"normalize": WORDS},
    "PrefFT": {"normalize": WORDS},
    "BestOfN": {"normalize": WORDS},
    "RWR": {"beta": NOT_POSITIVE, "max_weight": NOT_POSITIVE, "normalize": WORDS},
    "AWR": {"beta": NOT_POSITIVE, "max_weight": NOT_POSITIVE, "normalize": WORDS},
    "UnlikelihoodBestOfN": {"beta": NEGATIVE, "against": ("best", "")},
    "DPO": {
        "beta": NOT_POSITIVE,
        "label_smoothing": (-0.1, 0.5, 0.9, nan),
        "pairs": WORDS,
        "threshold": NEGATIVE,
    },
    "IPO": {
        "tau": NOT_POSITIVE,
        "normalize": ("token", "mean"),
        "pairs": WORDS,
        "threshold": NEGATIVE,
    },
    "SLiC": {"margin": NEGATIVE, "reg": NEGATIVE, "pairs": WORDS, "threshold": NEGATIVE},
    "SimPO": {"beta": NOT_POSITIVE, "gamma": NEGATIVE, "pairs": WORDS, "threshold": NEGATIVE},
    "CPO": {"beta": NOT_POSITIVE, "reg": NEGATIVE, "pairs": WORDS, "threshold": NEGATIVE},
    "ORPO": {"lambda_": NEGATIVE, "pairs": WORDS, "threshold": NEGATIVE},
    "KTO": {
        "beta": NOT_POSITIVE,
        "threshold": ("median", nan),
        "desirable_weight": NEGATIVE,
        "undesirable_weight": NEGATIVE,
        "reference_point": (nan,),
    },
    "REINFORCE": {"normalize": WORDS, "entropy": NEGATIVE},
    "PPO": {
        "clip_low": NEGATIVE,
        "clip_high": NEGATIVE,
        "dual_clip": (1.0, 0.5, nan),
        "normalize": (*WORDS, ("constant", 0), ("constant", -1.0), ("length", 3)),
        "entropy": NEGATIVE,
    },
    "GSPO": {"clip_low": NOT_POSITIVE, "clip_high": NOT_POSITIVE},
    "KLPenalty": {"beta": NEGATIVE, "estimator": ("k4", "")},
}
SWITCHES = {("DPO", "robust")}
NESTED = {("REINFORCE", "kl"), ("PPO", "kl"), ("GSPO", "kl")}


@pytest.mark.parametrize("name", [*OBJECTIVES, "KLPenalty"])
def test_every_field_refuses_what_makes_no_sense_and_says_what_would(name):
    cls = getattr(objectives, name)
    checked = {(name, field) for field in REFUSED[name]} | SWITCHES | NESTED
    assert {(name, field.name) for field in dataclasses.fields(cls)} <= checked
    for field, values in REFUSED[name].items():
        for value in values:
            with pytest.raises(ValueError) as refusal:
                unchecked(cls)(**{field: value})
            message = str(refusal.value)
            assert message.startswith(f"{name}.{field} is {value!r}; it must be "), message
            assert len(message.split("it must be ")[1]) > 3


def unchecked(cls: type) -> Any:
    """The constructor without beartype, which these tests run with and production does not."""

    def make(**fields: Any) -> Any:
        made = object.__new__(cls)
        for field in dataclasses.fields(cls):
            object.__setattr__(made, field.name, fields.get(field.name, field.default))
        made.__post_init__()
        return made

    return make


def test_a_traced_number_is_not_looked_at():
    def loss(beta: jax.Array) -> jax.Array:
        return objectives.DPO(beta=beta).beta

    assert jax.jit(loss)(-1.0) == -1.0


def test_an_objective_says_which_shapes_do_not_fit():
    logp, responses = on_device(draw(0), jnp.float32)
    with pytest.raises(ValueError, match=r"\(7, 4, 2\).*\(7, 4, 3\).*\[B, N, T\]"):
        objectives.DPO()(logp[..., :2], responses)


# At the first step the policy is the reference and the distribution that drew the responses.


def at_step_zero(temperature: float = 1.0) -> Batch:
    """Log-probabilities of one categorical at a temperature, three times the same."""
    batch = draw(10, garbage=0.5)
    rng = np.random.default_rng(10)
    logits = rng.normal(size=(B, N, T, 5)) / temperature
    logp = logits[..., 0] - np.log(np.exp(logits).sum(axis=-1))
    return litter(batch._replace(logp=logp, ref_logp=logp, old_logp=logp), np.nan)


@float64
def test_at_step_zero_dpo_costs_log_2_whatever_its_settings():
    for case in CASES:
        if type(case.objective).__name__ == "DPO":
            terms = case.objective(*on_device(at_step_zero()))
            close(terms.mean(), math.log(2))
            assert terms.metrics["margin"].mean() == 0


@float64
def test_at_step_zero_ipo_misses_its_target_by_all_of_it_and_kto_is_undecided():
    inputs = on_device(at_step_zero())
    close(objectives.IPO(tau=0.1)(*inputs).mean(), 25.0)
    close(objectives.IPO(tau=0.1, normalize="length")(*inputs).mean(), 25.0)
    close(objectives.KTO()(*inputs).mean(), 0.5)


@pytest.mark.parametrize("temperature", [0.25, 0.7, 1.0, 2.0])
@float64
def test_at_step_zero_ratios_are_one_and_penalties_zero_at_every_temperature(temperature):
    inputs = on_device(at_step_zero(temperature))
    for case in DEFAULTS:
        metrics = case.objective(*inputs).metrics
        for name in ("kl_to_reference", "log_ratio", "chosen_log_ratio", "rejected_log_ratio"):
            assert name not in metrics or metrics[name].mean() == 0
        if "ratio" in metrics:
            assert metrics["ratio"].mean() == 1
            assert metrics["clip_fraction"].mean() == 0
    batch = scored(*inputs)
    for estimator in ("k1", "k2", "k3"):
        assert not np.asarray(KLPenalty(0.3, estimator)(batch)).any()


@pytest.mark.parametrize("normalize", ["response", "length", "token"])
@float64
def test_at_ratio_one_a_clipped_surrogate_has_the_gradient_of_reinforce(normalize):
    inputs = on_device(at_step_zero())
    _, _, plain = loss_and_gradient(objectives.REINFORCE(normalize=normalize), *inputs)
    for dual_clip in (None, 3.0):
        ppo = objectives.PPO(normalize=normalize, dual_clip=dual_clip)
        _, _, gradient = loss_and_gradient(ppo, *inputs)
        close(gradient, plain)


# The taxonomy is data, and the data are true.


@every_class
def test_the_taxonomy_is_complete(name):
    cls = OBJECTIVES[name]
    assert isinstance(cls.negative_gradient, bool)
    assert isinstance(cls.mode_seeking, bool)
    assert cls.on_policy in ("required", "optional")
    assert len(cls.source) > 5
    assert cls.__name__ == name


@every_class
def test_the_docstring_says_which_way_mass_moves(name):
    first_line = inspect.getdoc(OBJECTIVES[name]).splitlines()[0]
    assert ("*Mode-seeking*" in first_line) == OBJECTIVES[name].mode_seeking
    assert ("*Mass-covering*" in first_line) != OBJECTIVES[name].mode_seeking


@every_default
@float64
def test_an_objective_pushes_down_if_and_only_if_it_says_so(case):
    _, _, gradient = outcome(case)
    # Descent lowers the tokens in which the loss rises.
    assert (np.asarray(gradient) > 0).any() == case.objective.negative_gradient


@every_default
@float64
def test_only_a_mode_seeking_objective_lets_a_response_go_for_nothing(case):
    # Covering mass means that losing any response of the data costs something.
    batch = draw(SEED, case.advantage)
    _, loss, gradient = outcome(case)
    lost_for_nothing = []
    for b, n in np.argwhere(np.abs(gradient).sum(axis=-1) > 0)[:12]:
        logp = batch.logp.copy()
        logp[b, n] -= 1.0
        without = case.objective(*on_device(batch._replace(logp=logp)))
        lost_for_nothing.append(bool(without.mean() <= loss))
    assert any(lost_for_nothing) == case.objective.mode_seeking


@every_class
def test_an_objective_that_must_be_on_policy_asks_for_an_advantage(name):
    logp, responses = on_device(draw(0, None), jnp.float32)
    if OBJECTIVES[name].on_policy == "required":
        with pytest.raises(ValueError, match=f"{name} needs responses.advantage.*leave_one_out"):
            jax.eval_shape(OBJECTIVES[name](), logp, responses)
    else:
        jax.eval_shape(OBJECTIVES[name](), logp, responses)


def test_the_batches_of_these_tests_hold_every_awkward_group():
    batch = draw(0)
    assert not batch.valid[4].any()
    assert batch.exists[3].sum() == 1
    assert (batch.valid & ~batch.mask.any(axis=-1)).any(), "a response without tokens"
    assert (batch.mask & ~batch.valid[..., None]).any(), "an invalid response with tokens"
    assert len(set(batch.reward[1])) < N, "ties"
