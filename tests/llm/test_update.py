"""A step moves by the gradient of the whole batch, however the batch was packed and cut."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm.model import RewardModel, abstract_decoder, parameters, with_parameters
from llm.model.architecture import architecture_from_config
from llm.model.lora import LoRA
from llm.optimizer import optimizer
from llm.sampler.draws import Rule
from llm.settings import OFFLINE_RECIPES, REWARD_MODEL, OptimizerSettings
from llm.update import Fixed, Learner, Sums, TrainState
from objectives import CPO, DPO, KTO, PPO
from objectives.pytrees import pytree
from objectives.responses import Responses
from objectives.terms import Terms
from tests.llm.tiny_runs import (
    CONFIG,
    as_jax,
    dense_logp,
    in_pieces,
    loud,
    make_decoder,
    make_groups,
    make_learner,
    total,
    unpacked,
)

UNEVEN = ((3, 5, 40), (20, 1, 9), (7, 12, 2), (1, 30, 31), (11, 4, 4))
NO_REFERENCE = Fixed({})
DIVERGENCES = ("forward_kl_per_token", "reverse_kl_per_token")


@pytest.fixture(scope="module")
def decoder():
    return make_decoder()


@pytest.fixture(scope="module")
def groups():
    return make_groups(*UNEVEN, rewards=(1.0, 0.0))


@pytest.fixture(scope="module")
def pieces(groups):
    plan = in_pieces(groups)
    found = [as_jax(batch) for batch in plan.micro_batches(0)]
    assert len(found) >= 3
    return found


@pytest.fixture(scope="module")
def policy(decoder):
    return loud(parameters(decoder), seed=1)


@pytest.fixture(scope="module")
def reference(decoder):
    return loud(parameters(decoder), seed=2)


@pytest.fixture(scope="module")
def dense(decoder, groups, policy, reference):
    """Dense log-probabilities with their vector-Jacobian product, compiled once for all."""
    table = unpacked(groups)

    def logp(values):
        return dense_logp(with_parameters(decoder, values), table)

    ref_logp = jax.jit(logp)(reference)
    found = jax.jit(logp)(policy)
    pull = jax.jit(lambda values, cotangent: jax.vjp(logp, values)[1](cotangent)[0])
    responses = Responses(
        jnp.asarray(table["mask"]), jnp.asarray(table["reward"]), ref_logp, ref_logp
    )
    return found, responses, pull


RECIPES = {name: r.objective for name, r in OFFLINE_RECIPES.items() if name != REWARD_MODEL}


@pytree
class Chosen:
    """One of several objectives, chosen by a number, so that all of them are one program."""

    number: Any
    objectives: tuple[Any, ...]

    def __call__(self, logp, responses):
        found = [objective(logp, responses).total() for objective in self.objectives]
        loss, weight = (jnp.stack(parts)[self.number] for parts in zip(*found, strict=True))
        return Terms(loss / weight, weight, {})


@pytest.fixture(scope="module")
def cut(decoder, pieces, policy, reference):
    """Gradient and loss of an objective, by number, added up over the pieces of the batch."""
    learner, fixed = make_learner(decoder), Fixed({}, reference)
    ratio, number = total(jax.jit(learner.log_ratio)(policy, fixed, batch) for batch in pieces)
    z = jnp.maximum(0, ratio / number)
    assert z > 0.1, "a reference point of 0 would prove nothing about KTO"
    objectives = tuple(
        replace(objective, reference_point=objective.beta * z)
        if isinstance(objective, KTO)
        else objective
        for objective in RECIPES.values()
    )
    sums = jax.jit(learner.sums)
    return lambda number: total(
        sums(policy, fixed, batch, Chosen(jnp.asarray(number), objectives)) for batch in pieces
    )


@pytest.mark.parametrize("name", RECIPES)
def test_cut_packed_batches_have_the_gradient_of_padded_sequences_and_dense_logits(
    name, cut, policy, dense
):
    logp, responses, pull = dense
    loss, cotangent = jax.value_and_grad(lambda x: RECIPES[name](x, responses).mean())(logp)
    expected = pull(policy, cotangent)
    sums = cut(list(RECIPES).index(name))
    value, weight = sums.loss
    np.testing.assert_allclose(value / weight, loss, rtol=1e-5)
    for path, gradient in expected.items():
        scale = float(jnp.abs(gradient).max())
        assert scale > 0, path
        np.testing.assert_allclose(
            sums.gradient[path] / weight, gradient, rtol=1e-4, atol=1e-5 * scale, err_msg=path
        )


def test_a_policy_that_is_its_reference_has_loss_log_2_and_no_divergence(decoder, pieces, policy):
    learner = make_learner(decoder)
    measure = jax.jit(learner.measure)
    found = total(measure(policy, Fixed({}, policy), batch, DPO()) for batch in pieces)
    mean = {name: value / weight for name, (value, weight) in found.items()}
    np.testing.assert_allclose(mean["loss"], np.log(2), rtol=1e-6)
    for name in ("margin", "chosen_log_ratio", "rejected_log_ratio", *DIVERGENCES):
        assert mean[name] == 0, name


def test_fresh_adapters_leave_the_base_and_are_at_no_distance_from_it(pieces):
    adapted = make_decoder(lora=LoRA(rank=2))
    values = parameters(adapted)
    trainable = {path: value for path, value in values.items() if "lora_" in path}
    fixed = Fixed({path: value for path, value in values.items() if path not in trainable})
    learner = make_learner(adapted, base=True)
    sums = jax.jit(learner.sums)(trainable, fixed, pieces[0], DPO())
    assert sums.metrics["reverse_kl_per_token"][0] == 0
    assert sums.metrics["forward_kl_per_token"][0] == 0
    assert sums.metrics["chosen_log_ratio"][0] == 0
    assert sums.gradient.keys() == trainable.keys()
    assert any(jnp.abs(gradient).max() > 0 for gradient in sums.gradient.values())


def test_a_reference_from_the_batch_says_what_a_reference_model_says(
    decoder, pieces, policy, reference
):
    learner, batch = make_learner(decoder), pieces[0]
    model = Fixed({}, reference)
    look = jax.jit(learner.look)
    there = look(policy, model, batch)
    cached = replace(batch, ref_logp=look(reference, NO_REFERENCE, batch).logp)
    here = look(policy, NO_REFERENCE, cached)
    # Programs that differ may round differently, on one processor and not on another.
    np.testing.assert_allclose(here.logp, there.logp, rtol=1e-6)
    np.testing.assert_allclose(here.responses.ref_logp, there.responses.ref_logp, rtol=1e-6)
    assert "reverse_kl_per_token" in there.metrics and "reverse_kl_per_token" not in here.metrics


def test_a_log_ratio_to_nothing_is_not_called_one(decoder, pieces, policy):
    def metrics(module, batch, **fields) -> set[str]:
        learner = make_learner(module, **fields)
        given = (policy if module is decoder else parameters(module), NO_REFERENCE, batch)
        return set(jax.eval_shape(learner.measure, *given, CPO()))

    known = replace(pieces[0], ref_logp=jnp.zeros(pieces[0].mask.shape))
    alone = replace(pieces[0], ref_logp=None)
    assert {"chosen_logp", "rejected_logp"} < metrics(decoder, alone)
    assert {"chosen_log_ratio", "rejected_log_ratio"} < metrics(decoder, known)
    assert {"chosen_reward", "rejected_reward"} < metrics(RewardModel(decoder), pieces[0])


@pytest.mark.parametrize(
    "rule",
    [
        Rule(0.7, top_k=20, top_p=0.8),
        pytest.param(Rule(0.3), marks=pytest.mark.slow),
        pytest.param(Rule(1.5), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("adapted", [False, True], ids=["frozen copy", "base of the adapters"])
def test_equal_models_are_at_no_distance_at_any_temperature(pieces, policy, rule, adapted):
    module = make_decoder(lora=LoRA(rank=2) if adapted else None)
    values = parameters(module) | policy
    trainable = {path: v for path, v in values.items() if not adapted or "lora_" in path}
    frozen = {path: value for path, value in values.items() if path not in trainable}
    learner = make_learner(module, base=adapted, rule=rule)
    given = trainable, Fixed(frozen, None if adapted else values), pieces[0]
    judged = jax.jit(learner.judge)(*given)
    assert not np.any(judged.forward_kl) and not np.any(judged.reverse_kl)
    np.testing.assert_allclose(judged.logp, judged.ref_logp, rtol=1e-6)
    # In the program of a step, which also differentiates, the last bit is the compiler's.
    found = jax.jit(learner.sums)(*given, DPO()).metrics
    for name in (*DIVERGENCES, "chosen_log_ratio", "margin"):
        np.testing.assert_allclose(found[name][0], 0, atol=1e-4)


def test_what_was_known_when_a_response_was_written_reaches_the_objective(decoder, pieces, policy):
    learner, batch = make_learner(decoder, rule=Rule(0.7)), pieces[0]
    look = jax.jit(learner.look)
    alone = look(policy, NO_REFERENCE, batch)
    assert alone.responses.advantage is None and "off_policy_per_token" not in alone.metrics
    # A scorer at another temperature than the sampler's would be off by this much.
    elsewhere = jax.jit(make_learner(decoder).look)(policy, NO_REFERENCE, batch).logp
    assert jnp.abs(elsewhere - alone.logp).max() > 0.1
    moved = jnp.where(batch.mask, alone.logp + 0.25, 0)
    known = replace(batch, old_logp=moved, advantage=2 * moved)
    seen = look(policy, NO_REFERENCE, known)
    np.testing.assert_array_equal(seen.responses.old_logp, moved)
    np.testing.assert_array_equal(seen.responses.advantage, 2 * moved)
    np.testing.assert_allclose(seen.metrics["off_policy_per_token"].mean(), 0.25, rtol=1e-5)
    shapes = jax.eval_shape(learner.measure, policy, NO_REFERENCE, known, PPO())
    assert "ratio" in shapes and "kl_to_reference" not in shapes  # to what?


# What follows needs no model: a state of two numbers, and sums as a batch would give them.


def make_state(learner: Learner) -> TrainState:
    trainable = {"w/kernel": jnp.array([3.0, 4.0])}
    zero = jnp.zeros(())
    names = ("loss", "gradient_norm", "learning_rate", "accuracy")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        optimizer=learner.transformation.init(trainable),
        totals={name: (zero, zero) for name in names},
        finite=jnp.ones((), bool),
    )


def make_sums(gradient, loss=2.0, weight=2.0) -> Sums:
    from llm.update import Sums

    metrics = {"accuracy": (jnp.asarray(1.0), jnp.asarray(2.0))}
    return Sums(
        {"w/kernel": jnp.asarray(gradient)}, (jnp.asarray(loss), jnp.asarray(weight)), metrics
    )


def plain(**fields: Any) -> Learner:
    return make_learner(abstract_decoder(architecture_from_config(CONFIG)), **fields)


def test_a_step_is_the_gradient_of_the_sum_divided_once():
    learner = plain()
    after, left, report = learner.apply(make_state(learner), make_sums([2.0, -6.0], weight=4.0))
    np.testing.assert_allclose(after.trainable["w/kernel"], [3 - 0.5, 4 + 1.5])
    np.testing.assert_allclose(report.totals["gradient_norm"][0], np.hypot(0.5, 1.5))
    assert all(not leaf.any() for leaf in jax.tree.leaves(left))
    assert after.step == 1


def test_a_batch_of_ties_moves_nothing():
    settings = OptimizerSettings()
    learner = plain(transformation=optimizer(settings, optax.constant_schedule(0.1)))
    state = make_state(learner)
    after, _, report = learner.apply(state, make_sums([1e-30, 0.0], loss=0.0, weight=0.0))
    np.testing.assert_array_equal(after.trainable["w/kernel"], state.trainable["w/kernel"])
    assert report.finite and after.step == 1


def test_a_gradient_is_cut_to_the_given_length_and_reported_as_it_was():
    rate = optax.constant_schedule(0.1)
    learner = plain(transformation=optimizer(OptimizerSettings(name="sgd", clip_norm=0.5), rate))
    state = make_state(learner)
    after, _, report = learner.apply(state, make_sums([6.0, 8.0], weight=1.0))
    moved = np.asarray(after.trainable["w/kernel"] - state.trainable["w/kernel"])
    np.testing.assert_allclose(moved, [-0.1 * 0.5 * 0.6, -0.1 * 0.5 * 0.8], rtol=1e-5)
    np.testing.assert_allclose(report.totals["gradient_norm"][0], 10.0)


@pytest.mark.parametrize(
    ("gradient", "loss", "rate"),
    [
        ([np.nan, 1.0], 1.0, 1.0),
        ([np.inf, 1.0], 1.0, 1.0),
        ([1.0, 1.0], np.nan, 1.0),
        ([1.0, 1.0], 1.0, 1e38),
    ],
    ids=["nan gradient", "infinite gradient", "nan loss", "infinite update"],
)
def test_a_step_that_is_not_finite_moves_nothing_nor_does_any_after_it(gradient, loss, rate):
    learner = plain(transformation=optax.adam(rate), log_every=10)
    state = make_state(learner)
    state, _, _ = plain(transformation=optax.adam(0.1), log_every=10).apply(
        state, make_sums([1.0, 1.0])
    )
    failed, left, report = learner.apply(state, make_sums(gradient, loss=loss))
    assert not report.finite
    later, _, report = learner.apply(failed, left)
    assert not report.finite
    for after in (failed, later):
        before = replace(state, finite=after.finite)
        jax.tree.map(np.testing.assert_array_equal, after, before)


def test_the_lines_of_a_window_sum_up_its_steps_and_no_other():
    learner = plain(log_every=3)
    state = make_state(learner)
    seen = []
    for number in range(5):
        state, _, report = learner.apply(state, make_sums([0.1, 0.1], loss=float(number)))
        seen.append((float(report.totals["loss"][0]), float(report.totals["loss"][1])))
    assert seen == [(0, 2), (1, 4), (3, 6), (3, 2), (7, 4)]
