"""What is trained is the gradient of the expected reward, on a language small enough to write out.

Four words, of which one ends a response, and at most two words a response: thirteen responses. The
exact gradient comes from all of them by dense logits; what is held against it comes from the
sampler, the packing, the log-prob primitive and the objectives.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from llm.data.examples import Group
from llm.data.order import InOrder
from llm.data.plan import PackingSettings, Plan, make_plan
from llm.model import Decoder, parameters, with_parameters
from llm.model.architecture import architecture_from_config
from llm.sampler import Sampling, sample
from llm.sampler.draws import Rule
from llm.update import Fixed, Learner
from objectives import PPO, REINFORCE
from objectives.advantages import leave_one_out
from tests.llm.tiny_runs import CONFIG, as_jax, hidden_of, loud, unpacked

PROMPT = np.array([1, 0, 2], np.int32)
STOP, WORDS = 3, 4
RESPONSES = [np.array([STOP], np.int32)] + [
    np.array([a, b], np.int32) for a in range(WORDS) if a != STOP for b in range(WORDS)
]
REWARDS = np.random.default_rng(0).normal(0.5, 1.0, len(RESPONSES)).astype(np.float32)
BETA = 0.3
RULES = {"temperature": Rule(0.8), "truncated": Rule(0.8, top_k=3, top_p=0.95)}


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    config = CONFIG | {"vocab_size": WORDS, "hidden_size": 8, "intermediate_size": 8}
    made = Decoder(architecture_from_config(config), rngs=nnx.Rngs(0))
    return with_parameters(made, loud(parameters(made), seed=1))


@pytest.fixture(scope="module")
def policy(decoder):
    return parameters(decoder)


@pytest.fixture(scope="module")
def reference(policy):
    return loud(policy, seed=2)


def group(rows: Any, rewards: Any) -> Group:
    return Group(PROMPT, tuple(rows), np.asarray(rewards, np.float32), "here")


def whole_logp(decoder: Decoder, values: Any, rule: Rule) -> jax.Array:
    """Log-probability of every response, from dense logits cut by hand."""
    table = unpacked([group(RESPONSES, REWARDS)])
    here = with_parameters(decoder, values)
    logits = here.logits(hidden_of(here, table)) / rule.temperature
    if rule.top_k:
        logits = jnp.where(logits >= jnp.sort(logits)[..., -rule.top_k, None], logits, -jnp.inf)
    if rule.top_p < 1:
        p = jax.nn.softmax(logits)
        above = jnp.sum(jnp.where(p[..., None, :] > p[..., :, None], p[..., None, :], 0), axis=-1)
        logits = jnp.where(above < rule.top_p, logits, -jnp.inf)
    # A response that cannot be drawn has probability 0 and no gradient.
    logp = jnp.maximum(jax.nn.log_softmax(logits), -100.0)
    rows = jnp.arange(logp.shape[0])[:, None]
    chosen = logp[rows, table["at"], table["target"]]
    return jnp.sum(jnp.where(table["mask"][0], chosen, 0), axis=1)


def exact(decoder: Decoder, policy: Any, reference: Any, rule: Rule, beta: float) -> Any:
    """Gradient of E[r] - beta KL(policy || reference), and the probabilities."""
    ref_logp = whole_logp(decoder, reference, rule)

    def expected(values: Any) -> Any:
        logp = whole_logp(decoder, values, rule)
        p = jnp.exp(logp)
        penalty = jnp.where(p > 1e-30, logp - ref_logp, 0) if beta else 0.0
        return jnp.sum(p * (REWARDS - beta * penalty)), p

    (_, p), gradient = jax.jit(jax.value_and_grad(expected, has_aux=True))(policy)
    np.testing.assert_allclose(jnp.sum(p), 1, rtol=1e-5)
    return gradient, np.asarray(p, np.float64)


def learner(decoder: Decoder, rule: Rule) -> Learner:
    return Learner(
        module=decoder,
        transformation=optax.sgd(1.0),
        rate=optax.constant_schedule(1.0),
        rule=rule,
    )


def planned(groups: list[Group], batch: int) -> Plan:
    settings = PackingSettings(max_tokens=1 << 14, row_length=512, shapes=1)
    steps = -(-len(groups) // batch)
    order = InOrder(len(groups), batch)
    return make_plan(groups, order, settings, steps=steps, width=8)


def per_token(groups: list[Group], numbers: Any) -> list[np.ndarray]:
    """A number per response, at each of its tokens."""
    return [
        np.repeat(np.asarray(row, np.float32), [len(y) for y in g.responses])
        for g, row in zip(groups, numbers, strict=True)
    ]


def assert_same_gradient(found: Any, wanted: Any, times: float) -> None:
    for path, gradient in wanted.items():
        scale = float(jnp.abs(gradient).max())
        np.testing.assert_allclose(
            found[path] * times, gradient, atol=1e-5 * max(scale, 1e-2), rtol=1e-4, err_msg=path
        )


OBJECTIVES = {"reinforce": REINFORCE(), "ppo": PPO(normalize="response")}


# Of two truncated distributions the KL may be infinite.
@pytest.mark.parametrize(("name", "beta"), [("temperature", BETA), ("truncated", 0.0)])
def test_all_responses_weighted_by_their_probability_have_the_exact_gradient(
    decoder, policy, reference, name, beta
):
    rule = RULES[name]
    gradient, p = exact(decoder, policy, reference, rule, beta)
    assert (p < 1e-30).any() == (name == "truncated")
    alive = [(y, r, q) for y, r, q in zip(RESPONSES, REWARDS, p, strict=True) if q > 1e-30]
    rows, rewards, weights = zip(*alive, strict=True)
    groups = [group(rows, rewards)]
    found = learner(decoder, rule)
    batch = as_jax(planned(groups, 1).micro_batches(0)[0])
    judged = jax.jit(found.judge)(policy, Fixed({}, reference), batch)
    np.testing.assert_allclose(np.exp(judged.logp.sum(axis=2))[0, : len(rows)], weights, rtol=1e-4)
    drift = np.asarray((judged.logp - judged.ref_logp).sum(axis=2))[0, : len(rows)]
    shaped = np.asarray(weights) * (np.asarray(rewards) - beta * drift)
    (advantage,) = per_token(groups, [shaped])
    known = {"advantage": [advantage], "old_logp": [np.asarray(judged.logp)[batch.mask]]}
    batch = as_jax(planned(groups, 1).with_known(**known).micro_batches(0)[0])
    for objective in OBJECTIVES.values():
        sums = jax.jit(found.sums)(policy, Fixed({}), batch, objective)
        assert_same_gradient(sums.gradient, gradient, -1.0)


def test_all_pairs_have_the_exact_gradient_under_the_baseline_of_the_other(
    decoder, policy, reference
):
    rule = RULES["temperature"]
    gradient, p = exact(decoder, policy, reference, rule, 0.0)
    both = [(i, j) for i in range(len(RESPONSES)) for j in range(len(RESPONSES))]
    groups = [group([RESPONSES[i], RESPONSES[j]], [REWARDS[i], REWARDS[j]]) for i, j in both]
    reward = np.array([g.rewards for g in groups])
    advantage = np.asarray(leave_one_out(jnp.asarray(reward), jnp.ones(reward.shape, bool)))
    weighted = advantage * np.array([p[i] * p[j] for i, j in both])[:, None]
    plan = planned(groups, len(groups)).with_known(advantage=per_token(groups, weighted))
    (batch,) = plan.micro_batches(0)
    sums = jax.jit(learner(decoder, rule).sums)(policy, Fixed({}), as_jax(batch), REINFORCE())
    assert_same_gradient(sums.gradient, gradient, -0.5)


PROMPTS, MANY, TOGETHER = 1024, 4, 32


@pytest.fixture(scope="module")
def drawn(decoder):
    rule = RULES["temperature"]
    settings = Sampling(
        responses=MANY, max_new_tokens=2, temperature=rule.temperature, seed=3, stop=(STOP,)
    )
    return sample(decoder, [PROMPT] * PROMPTS, settings)


@pytest.fixture(scope="module")
def fresh(drawn):
    """The drawn responses as groups, in batches that say what the sampler said."""
    reward_of = {tuple(y.tolist()): r for y, r in zip(RESPONSES, REWARDS, strict=True)}
    groups = [
        group([s.tokens for s in row], [reward_of[tuple(s.tokens.tolist())] for s in row])
        for row in drawn
    ]
    old = [np.concatenate([s.logp for s in row]) for row in drawn]
    return planned(groups, TOGETHER).with_known(old_logp=old)


def assert_mean_is(gradients: list[Any], wanted: Any) -> None:
    """The mean over batches is the exact gradient within its standard error.

    Along the exact gradient and nine random directions; along the first the batches would also tell
    it from one that is off by a fifth.
    """
    flat = ravel_pytree(wanted)[0]
    rows = np.stack([ravel_pytree(g)[0] for g in gradients]).astype(np.float64)
    random = np.random.default_rng(1).normal(size=(9, flat.size))
    directions = np.concatenate([np.asarray(flat)[None], random])
    along, truth = rows @ directions.T, directions @ np.asarray(flat, np.float64)
    error = along.std(axis=0, ddof=1) / np.sqrt(len(along))
    z = (along.mean(axis=0) - truth) / error
    assert np.abs(z).max() < 4, z
    assert truth[0] / error[0] > 20, truth[0] / error[0]


@pytest.mark.parametrize(
    ("name", "baseline", "beta"),
    [
        ("reinforce", False, 0.0),
        pytest.param("reinforce", True, 0.0, marks=pytest.mark.slow),
        ("reinforce", True, BETA),
        ("ppo", True, 0.0),
    ],
    ids=["reinforce", "rloo", "rloo with KL in the reward", "ppo"],
)
def test_the_mean_sampled_gradient_is_the_exact_one(
    decoder, policy, reference, fresh, name, baseline, beta
):
    rule = RULES["temperature"]
    gradient, _ = exact(decoder, policy, reference, rule, beta)
    found, fixed = learner(decoder, rule), Fixed({}, reference)
    judge, sums = jax.jit(found.judge), jax.jit(found.sums)
    gradients = []
    for step in range(fresh.steps):
        (batch,) = fresh.micro_batches(step)
        batch = as_jax(batch)
        reward, valid = jnp.asarray(batch.reward), jnp.asarray(batch.valid)
        if beta:
            judged = judge(policy, fixed, batch)
            reward = reward - beta * jnp.sum(batch.old_logp - judged.ref_logp, axis=2)
        advantage = leave_one_out(reward, valid) if baseline else reward
        batch = replace(batch, advantage=jnp.where(batch.mask, advantage[..., None], 0))
        got = sums(policy, Fixed({}), batch, OBJECTIVES[name])
        assert (
            got.metrics["off_policy_per_token"][0] < 1e-4 * got.metrics["off_policy_per_token"][1]
        )
        gradients.append(jax.tree.map(lambda g: -g / (TOGETHER * MANY), got.gradient))
    assert_mean_is(gradients, gradient)
