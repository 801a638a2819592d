"""What sampled gradients estimate, by visiting everything a small policy can say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objectives
from objectives import (
    GSPO,
    PPO,
    REINFORCE,
    KLPenalty,
    RunningMean,
    entropy,
    forward_kl,
    k1,
    k2,
    k3,
    reverse_kl,
)
from tests.objectives.enumeration import (
    VOCABULARY,
    K,
    World,
    bandit,
    expected_gradient,
    gradient_of_expectation,
    sentences,
)

# Compiled once each, because a dozen small programs would take longer to build.
group_mean, group_zscore, kl_in_reward, leave_one_out, running_mean = map(
    jax.jit,
    (
        objectives.group_mean,
        objectives.group_zscore,
        objectives.kl_in_reward,
        objectives.leave_one_out,
        objectives.running_mean,
    ),
)

pytestmark = pytest.mark.usefixtures("x64")
close = functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-13)

rng = np.random.default_rng(0)
LOGITS = {"bandit": rng.normal(0, 1, (1, K)), "sentences": rng.normal(0, 1, (4, VOCABULARY))}
REFERENCE = {"bandit": rng.normal(0, 1, (1, K)), "sentences": rng.normal(0, 1, (4, VOCABULARY))}
REWARD = {"bandit": rng.normal(0, 1, K), "sentences": rng.normal(0, 1, 7)}
MAKE = {"bandit": bandit, "sentences": sentences}
both_worlds = pytest.mark.parametrize("name", ["bandit", "sentences"])


def setting(name: str, responses: int = 1) -> tuple[World, np.ndarray, np.ndarray]:
    return MAKE[name](responses), LOGITS[name], REWARD[name]


def gradient_of_expected_reward(name: str, reward: np.ndarray) -> jax.Array:
    world, logits, _ = setting(name)
    return gradient_of_expectation(world, logits, reward)


@both_worlds
def test_all_that_can_be_said_has_probability_one(name):
    for responses in (1, 2):
        world, logits, _ = setting(name, responses)
        close(np.asarray(world.probability(logits)).sum(), 1)


# The policy gradient, and what a baseline does to it.


@both_worlds
def test_reinforce_is_unbiased(name):
    world, logits, reward = setting(name)
    responses = world.responses(reward, advantage=world.each(reward)[..., None])
    gradient = expected_gradient(REINFORCE(), world, logits, responses)
    close(-gradient, gradient_of_expected_reward(name, reward))


def test_leave_one_out_is_unbiased():
    world, logits, reward = setting("bandit", 3)
    advantage = leave_one_out(world.each(reward), world.everyone())
    responses = world.responses(reward, advantage=np.asarray(advantage)[..., None])
    gradient = expected_gradient(REINFORCE(), world, logits, responses)
    close(-gradient, gradient_of_expected_reward("bandit", reward))


def test_leave_one_out_is_unbiased_for_sentences_of_uneven_length():
    world, logits, reward = setting("sentences", 2)
    advantage = leave_one_out(world.each(reward), world.everyone())
    responses = world.responses(reward, advantage=np.asarray(advantage)[..., None])
    gradient = expected_gradient(REINFORCE(), world, logits, responses)
    close(-gradient, gradient_of_expected_reward("sentences", reward))


def test_a_group_mean_that_contains_the_response_shrinks_the_gradient_by_one_over_n():
    world, logits, reward = setting("bandit", 3)
    advantage = group_mean(world.each(reward), world.everyone())
    responses = world.responses(reward, advantage=np.asarray(advantage)[..., None])
    gradient = expected_gradient(REINFORCE(), world, logits, responses)
    close(-gradient, (1 - 1 / 3) * gradient_of_expected_reward("bandit", reward))


def test_a_running_mean_shrinks_the_gradient_less_and_less():
    world, logits, reward = setting("bandit")
    for count in (0.0, 3.0, 99.0):
        past = RunningMean(jnp.asarray(0.4 * count), jnp.asarray(count))
        alone = [running_mean(r, np.isfinite(r), past)[0] for r in world.each(reward)[:, None, :]]
        responses = world.responses(reward, advantage=np.stack(alone))
        gradient = expected_gradient(REINFORCE(), world, logits, responses)
        shrunk = 1 - 1 / (count + 1)
        close(-gradient, shrunk * gradient_of_expected_reward("bandit", reward))


def test_dividing_by_the_spread_of_a_group_changes_what_is_maximised():
    world, logits, reward = setting("bandit", 3)
    advantage = group_zscore(world.each(reward), world.everyone())
    responses = world.responses(reward, advantage=np.asarray(advantage)[..., None])
    gradient = expected_gradient(REINFORCE(), world, logits, responses)
    exact = gradient_of_expected_reward("bandit", reward)
    cosine = -np.vdot(gradient, exact) / np.linalg.norm(gradient) / np.linalg.norm(exact)
    assert 0 < cosine < 0.999


def test_at_ratio_one_ppo_has_the_exact_gradient():
    world, logits, reward = setting("sentences")
    responses = world.responses(
        reward, advantage=world.each(reward)[..., None], old_logp=world.logp(logits)
    )
    exact = gradient_of_expected_reward("sentences", reward)
    close(-expected_gradient(PPO(normalize="response"), world, logits, responses), exact)
    constant = PPO(normalize=("constant", 10), dual_clip=3.0)
    close(-10 * expected_gradient(constant, world, logits, responses), exact)


def test_averaging_over_tokens_maximises_reward_per_token():
    # GRPO as published and GSPO: the length of a response divides its reward.
    world, logits, reward = setting("sentences")
    responses = world.responses(
        reward, advantage=world.each(reward)[..., None], old_logp=world.logp(logits)
    )
    exact = gradient_of_expected_reward("sentences", reward / world.mask.sum(axis=-1)[:, 0])
    for objective in (GSPO(), PPO(normalize="length"), REINFORCE(normalize="length")):
        close(-expected_gradient(objective, world, logits, responses), exact)
    assert not np.allclose(exact, gradient_of_expected_reward("sentences", reward), atol=0.01)


def test_off_policy_the_ratio_makes_the_gradient_exact_again():
    world, logits, reward = setting("bandit")
    behaviour = REFERENCE["bandit"]
    responses = world.responses(
        reward, advantage=world.each(reward)[..., None], old_logp=world.logp(behaviour)
    )
    exact = gradient_of_expected_reward("bandit", reward)
    for objective in (PPO(clip_low=1.0, clip_high=1e9), GSPO(clip_low=1.0, clip_high=1e9)):
        close(-expected_gradient(objective, world, logits, responses, drawn_from=behaviour), exact)
    clipped = expected_gradient(PPO(), world, logits, responses, drawn_from=behaviour)
    uncorrected = expected_gradient(REINFORCE(), world, logits, responses, drawn_from=behaviour)
    assert not np.allclose(-clipped, exact)
    assert not np.allclose(-uncorrected, exact)


# What the three estimators of a KL really do, as a term of the loss.


def gradient_of_penalty(name: str, penalty: KLPenalty) -> jax.Array:
    """On policy, with nothing but the penalty in the loss."""
    world, logits, reward = setting(name)
    responses = world.responses(
        reward,
        advantage=world.zeros(),
        ref_logp=world.logp(REFERENCE[name]),
        old_logp=world.logp(logits),
    )
    return expected_gradient(REINFORCE(kl=penalty), world, logits, responses)


def per_position(name: str, divergence) -> jax.Array:
    """Gradient of a divergence summed over positions, each weighted by how often it is reached."""
    _, logits, _ = setting(name)
    first = np.exp(logits[0]) / np.exp(logits[0]).sum()
    reached = np.array([1.0, 0.0, *first[1:]])[: len(logits)]  # nothing follows a stop

    def total(logits: jax.Array) -> jax.Array:
        reference = jax.nn.log_softmax(REFERENCE[name], axis=-1)
        return reached @ divergence(jax.nn.log_softmax(logits, axis=-1), reference)

    return jax.jit(jax.grad(total))(logits)


def test_k1_in_the_loss_has_no_gradient():
    close(gradient_of_penalty("sentences", KLPenalty(0.3, "k1")), 0)


@both_worlds
def test_k2_in_the_loss_has_the_gradient_of_the_reverse_kl(name):
    close(gradient_of_penalty(name, KLPenalty(0.3, "k2")), 0.3 * per_position(name, reverse_kl))


def test_k2_per_token_does_not_see_that_it_changes_what_is_said_next():
    # The reverse KL between whole sentences has a second half: how often each prefix is reached.
    world, logits, _ = setting("sentences")
    reference = world.logp(REFERENCE["sentences"])

    def reverse_kl_of_sentences(logits: jax.Array) -> jax.Array:
        S = world.logp(logits).sum(axis=(1, 2))
        return jnp.exp(S) @ (S - reference.sum(axis=(1, 2)))

    whole = jax.jit(jax.grad(reverse_kl_of_sentences))(logits)
    per_token = gradient_of_penalty("sentences", KLPenalty(1.0, "k2"))
    close(per_token[1:], whole[1:])  # what follows a last token is nothing
    assert abs(per_token[0] - whole[0]).max() > 0.05


def test_k3_in_the_loss_has_the_gradient_of_the_forward_kl():
    close(
        gradient_of_penalty("sentences", KLPenalty(0.3, "k3")),
        0.3 * per_position("sentences", forward_kl),
    )


def test_k3_in_the_loss_has_the_gradient_p_minus_q():
    p, q = (np.exp(x["bandit"]) / np.exp(x["bandit"]).sum() for x in (LOGITS, REFERENCE))
    close(gradient_of_penalty("bandit", KLPenalty(1.0, "k3")), p - q)


def test_on_gspo_the_penalty_is_the_mean_over_the_tokens():
    world, logits, reward = setting("sentences")
    reference = world.logp(REFERENCE["sentences"])
    responses = world.responses(
        reward, advantage=world.zeros(), ref_logp=reference, old_logp=world.logp(logits)
    )
    penalty = KLPenalty(0.3, "k3")
    gspo = expected_gradient(GSPO(kl=penalty), world, logits, responses)
    plain = REINFORCE(normalize="length", kl=penalty)
    close(gspo, expected_gradient(plain, world, logits, responses))


def test_as_numbers_k1_and_k3_are_unbiased_and_k2_is_not():
    world = bandit()
    logp, ref_logp = (np.asarray(world.logp(x["bandit"]))[:, 0, 0] for x in (LOGITS, REFERENCE))
    probability, log_ratio = np.exp(logp), logp - ref_logp
    exact = jax.jit(reverse_kl)(logp, ref_logp)
    first, second, third = (np.asarray(jax.jit(k)(log_ratio)) for k in (k1, k2, k3))
    close(probability @ first, exact)
    close(probability @ third, exact)
    assert abs(probability @ second - exact) > 0.01
    assert third.min() >= 0
    assert first.min() < 0


def test_in_the_reward_k1_gives_the_whole_gradient_of_the_regularised_objective():
    world, logits, reward = setting("sentences")
    reference, beta = world.logp(REFERENCE["sentences"]), 0.3
    shaped = kl_in_reward(
        world.each(reward), world.logp(logits), reference, jnp.asarray(world.mask), beta
    )
    responses = world.responses(reward, advantage=np.asarray(shaped)[..., None])

    def regularised(logits: jax.Array) -> jax.Array:
        S = world.logp(logits).sum(axis=(1, 2))
        return jnp.exp(S) @ (reward - beta * (S - reference.sum(axis=(1, 2))))

    gradient = expected_gradient(REINFORCE(), world, logits, responses)
    close(-gradient, jax.jit(jax.grad(regularised))(logits))


def test_the_entropy_bonus_has_the_gradient_of_minus_the_entropy():
    world, logits, reward = setting("sentences")
    responses = world.responses(reward, advantage=world.zeros(), old_logp=world.logp(logits))
    gradient = expected_gradient(REINFORCE(entropy=0.2), world, logits, responses)
    close(gradient, -0.2 * per_position("sentences", lambda logp, _: entropy(logp)))


def test_minus_the_mean_log_probability_is_no_entropy_bonus():
    # What the authors' bandit adds: its gradient vanishes in expectation, like k1's.
    world, logits, _ = setting("bandit")
    probability = world.probability(logits)
    close(jax.jit(jax.grad(lambda z: probability @ world.logp(z)[:, 0, 0]))(logits), 0)
