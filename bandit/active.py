"""Active preference learning on a bandit: which pairs are worth a label?

Labels are what costs. Each round samples candidate pairs from the policy as it is, scores them with
an acquisition function, buys labels for the best few, and fine-tunes the policy with DPO on all
labels bought so far. Contexts share a network, so a label in one context teaches about the others.

On a bandit the right answer is known, so there is one acquisition function that nobody could use
elsewhere: ``"regret"`` knows the reward, and shows what there is to gain.

Every acquisition function is computed in every round and a number says which one decides, so that
all of them, and all seeds, are one program.

Key to the axes: P candidate pairs, L labels bought, M ensemble members, R rounds.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from bandit.policies import Params, Policy, Prompts, token_logp
from bandit.problems import Problem
from bandit.simulate import check_learning_rate, response_reward
from objectives import (
    DPO,
    Responses,
    bradley_terry,
    disagreement,
    diverse,
    hybrid,
    implicit_reward,
    middle,
    predictive_entropy,
    preference_certainty,
    select,
    tails,
    uncertainty,
)
from objectives.hyperparameters import (
    Number,
    require,
    require_nonnegative,
    require_positive,
)
from objectives.pytrees import pytree, structure

Measures = dict[str, Array]

ACQUISITIONS = (
    "random",
    "certainty",
    "uncertainty",
    "middle",
    "tails",
    "entropy",
    "hybrid",
    "disagreement",
    "diverse",
    "regret",
)
"""The acquisition functions by name, in the order of their numbers; the last knows the reward."""


@pytree
class Campaign:
    """How labels are bought and used.

    Attributes:
        acquisition: number of the function in ``ACQUISITIONS``.
        objective: what the labels are learned with.
        learning_rate: Adam's.
        label_temperature: of the Bradley-Terry labels, in units of the reward; 0 for exact ones.
        prompts: how many contexts there are to ask about.
        rounds: R.
        candidates: P, pairs to choose from in each round, each of another context.
        labels: bought in each round.
        pool: candidates that ``"hybrid"`` keeps for their entropy.
        samples: per context, for the estimate of its entropy.
        members: M, networks trained apart for ``"disagreement"``; the first is the policy.
        steps: gradient steps in each round.
        batch: labels per gradient step, drawn from all bought so far.
        restart: learn from the reference anew in each round instead of going on from the last; may
            be traced.

    Source: Muldrew et al. 2024, arXiv:2402.08114, Algorithm 1.

    Differs: the authors restart from the reference in every round and train for many epochs; here
    that is ``restart=True``. Their judge may leave a pair undecided and they replace it; here only
    a pair of equal responses is undecided, and it is never bought. Batches are drawn with
    replacement.
    """

    acquisition: Number = 0
    objective: DPO = DPO(beta=0.2)
    learning_rate: Number = 0.003
    label_temperature: Number = 0.0
    prompts: int = structure(default=100)
    rounds: int = structure(default=12)
    candidates: int = structure(default=64)
    labels: int = structure(default=8)
    pool: int = structure(default=32)
    samples: int = structure(default=8)
    members: int = structure(default=3)
    steps: int = structure(default=30)
    batch: int = structure(default=32)
    restart: bool | Bool[Array, ""] = False

    def __post_init__(self) -> None:
        require_nonnegative(self, "label_temperature")
        require_positive(self, "rounds", "labels", "samples", "members", "steps", "batch")
        require(self.candidates <= self.prompts, self, "candidates", f"at most {self.prompts}")
        require(self.labels <= self.pool, self, "labels", f"at most pool={self.pool}")
        require(self.pool <= self.candidates, self, "pool", f"at most {self.candidates}")
        check_learning_rate(self.learning_rate)


@pytree
class Start:
    """Where a campaign begins: it depends on the seed and the reference, not on what is bought.

    Attributes:
        prompts: all contexts there are to ask about.
        held_out: the contexts that traces are measured on.
        members: parameters of every ensemble member, each an imitation of the reference.
    """

    prompts: Prompts
    held_out: Prompts
    members: Params


@pytree
class Labelled:
    """The labels bought so far, and room for the rest.

    Attributes:
        prompt: index of each pair's context.
        tokens: the two responses of each pair.
        reward: 1 for the preferred response of a pair and 0 for the other.
        valid: whether the label was really bought.
    """

    prompt: Int[Array, " L"]
    tokens: Int[Array, "L 2 T"]
    reward: Float[Array, "L 2"]
    valid: Bool[Array, " L"]


@pytree
class ActiveTrace:
    """A campaign, measured after each round; the first record is the start.

    The means over "the pairs bought in this round" are of the policy that bought them, and 0 at the
    start. A label is worth what the policy stands to lose without it, and that has two factors:
    what is at stake in the pair, and how wrong the policy is about it.

    Attributes:
        labels: bought so far.
        reward: expected reward on held-out contexts, exact.
        probability: of every bin, averaged over those contexts.
        surprise: share of the pairs bought in this round whose label is not what the policy
            expected; a tie counts half.
        truth: share of them whose label puts the response of higher reward first.
        stake: mean difference in reward between the two responses of a pair.
        wrongness: mean probability that the policy's implicit rewards give to the worse response.
        regret: mean product of the two.
        choice: share of all candidates of the round whose two responses differ.
    """

    labels: Int[Array, " R"]
    reward: Float[Array, " R"]
    probability: Float[Array, "R K"]
    surprise: Float[Array, " R"]
    truth: Float[Array, " R"]
    stake: Float[Array, " R"]
    wrongness: Float[Array, " R"]
    regret: Float[Array, " R"]
    choice: Float[Array, " R"]


PURCHASE = ("surprise", "truth", "stake", "wrongness", "regret", "choice")
"""What ``ask`` measures of the pairs bought."""


def prepare(campaign: Campaign, problem: Problem, policy: Policy, key: PRNGKeyArray) -> Start:
    """Draw contexts and fit the ensemble to the reference.

    Args:
        campaign: how many contexts and members.
        problem: holds the reference.
        policy: what is trained.
        key: the one that ``active`` will be called with.
    """
    prompt_key, held_out_key, init_key, _ = jax.random.split(key, 4)
    prompts = policy.prompts(prompt_key, campaign.prompts)
    held_out = policy.held_out(held_out_key, prompts)
    member_keys = jax.random.split(init_key, campaign.members)
    members = jax.vmap(lambda key: policy.init(key, problem, prompts))(member_keys)
    return Start(prompts, held_out, members)


def active(
    campaign: Campaign,
    problem: Problem,
    policy: Policy,
    key: PRNGKeyArray,
    start: Start | None = None,
) -> ActiveTrace:
    """Buy labels in rounds and learn from them; pure and traceable, so ``vmap`` it.

    Args:
        campaign: what is bought and how it is used.
        problem: one-token responses; its reward labels the pairs.
        policy: what is trained.
        key: consumed.
        start: what ``prepare`` makes of the same key, if it is there already.

    Returns:
        ``rounds + 1`` records.
    """
    *_, run_key = jax.random.split(key, 4)
    start = prepare(campaign, problem, policy, key) if start is None else start
    prompts, held_out, reference = start.prompts, start.held_out, start.members
    total = campaign.rounds * campaign.labels
    nothing = Labelled(
        jnp.zeros(total, jnp.int32),
        jnp.zeros((total, 2, problem.tokens), jnp.int32),
        jnp.zeros((total, 2)),
        jnp.zeros(total, bool),
    )

    def measured(members: Params, bought: Labelled, purchase: Measures) -> Measures:
        params = first(members)
        tokens = jnp.zeros((jax.tree.leaves(held_out)[0].shape[0], 1, 1), jnp.int32)
        p = jax.nn.softmax(policy.logits(params, held_out, tokens))[:, 0, 0]
        return {
            "labels": jnp.sum(bought.valid),
            "reward": jnp.mean(p @ problem.reward),
            "probability": jnp.mean(p, axis=0),
            **purchase,
        }

    def one_round(carry: Any, now: Any) -> tuple[Any, Measures]:
        members, bought = carry
        number, key = now
        ask_key, train_key = jax.random.split(key)
        fresh, purchase = ask(campaign, problem, policy, members, reference, prompts, ask_key)
        at = number * campaign.labels
        bought = jax.tree.map(
            lambda all_of, some: jax.lax.dynamic_update_slice_in_dim(all_of, some, at, 0),
            bought,
            fresh,
        )

        def learned(params: Params, own_start: Params, key: PRNGKeyArray) -> Params:
            known = at + campaign.labels
            return learn(campaign, policy, params, own_start, prompts, bought, known, key)

        begin = jax.tree.map(
            lambda anew, on: jnp.where(campaign.restart, anew, on), reference, members
        )
        member_keys = jax.random.split(train_key, campaign.members)
        members = jax.vmap(learned)(begin, reference, member_keys)
        return (members, bought), measured(members, bought, purchase)

    rounds = (jnp.arange(campaign.rounds), jax.random.split(run_key, campaign.rounds))
    _, later = jax.lax.scan(one_round, (reference, nothing), rounds)
    before = measured(reference, nothing, {name: jnp.zeros(()) for name in PURCHASE})
    return ActiveTrace(**{k: jnp.concatenate([before[k][None], later[k]]) for k in before})


def first(members: Params) -> Params:
    """The ensemble member that is the policy."""
    return jax.tree.map(lambda leaf: leaf[0], members)


def ask(
    campaign: Campaign,
    problem: Problem,
    policy: Policy,
    members: Params,
    reference: Params,
    prompts: Prompts,
    key: PRNGKeyArray,
) -> tuple[Labelled, Measures]:
    """One round of buying: candidates from the policy, a choice among them, their labels.

    Args:
        campaign: how many of each, and which acquisition function decides.
        problem: labels the pairs.
        policy: what the parameters belong to.
        members: the ensemble as it is.
        reference: the same before any label: what the log-ratios of each are to.
        prompts: all contexts.
        key: consumed.

    Returns:
        The labels, and the measures of ``PURCHASE`` (see ``ActiveTrace``).
    """
    prompt_key, pair_key, entropy_key, select_key, label_key = jax.random.split(key, 5)
    asked = jax.random.permutation(prompt_key, campaign.prompts)[: campaign.candidates]
    contexts = jax.tree.map(lambda leaf: leaf[asked], prompts)
    params = first(members)
    tokens = policy.sample(params, contexts, pair_key, 2, 1.0)

    def believed(params: Params, ref: Params) -> Float[Array, "P 2"]:
        logp = token_logp(policy, params, contexts, tokens)
        ref_logp = token_logp(policy, ref, contexts, tokens)
        S, S_ref = jnp.sum(logp, axis=-1), jnp.sum(ref_logp, axis=-1)
        return implicit_reward(S, S_ref, campaign.objective.beta)

    h = jax.vmap(believed)(members, reference)
    guesses = policy.sample(params, contexts, entropy_key, campaign.samples, 1.0)
    S = jnp.sum(token_logp(policy, params, contexts, guesses), axis=-1)
    entropy = predictive_entropy(S)
    reward = response_reward(problem, contexts, tokens)
    picked = choose(campaign, h, entropy, reward, tokens, problem.bins, select_key)

    label = labelled(campaign, reward[picked], label_key)
    differ = jnp.any(tokens[:, 0] != tokens[:, 1], axis=-1)
    bought = Labelled(asked[picked], tokens[picked], label, differ[picked])
    purchase = purchased(h[0][picked], reward[picked], bought)
    return bought, {**purchase, "choice": jnp.mean(differ)}


def labelled(
    campaign: Campaign, reward: Float[Array, "L 2"], key: PRNGKeyArray
) -> Float[Array, "L 2"]:
    """The label of each pair: 1 for the preferred response and 0 for the other.

    Args:
        campaign: holds the temperature of the labels.
        reward: of both responses of each pair.
        key: consumed; exact labels ignore it.
    """
    exact = reward[:, 0] > reward[:, 1]
    temperature = jnp.maximum(campaign.label_temperature, jnp.finfo(reward.dtype).tiny)
    noisy = bradley_terry(key, reward[:, 0], reward[:, 1], temperature)
    wins = jnp.where(campaign.label_temperature > 0, noisy, exact)
    return jnp.stack([wins, ~wins], axis=-1).astype(reward.dtype)


def purchased(h: Float[Array, "L 2"], reward: Float[Array, "L 2"], bought: Labelled) -> Measures:
    """What was bought, by the policy that bought it: means over the pairs that differ.

    Args:
        h: the policy's implicit reward of both responses of each pair.
        reward: the true one.
        bought: the labels.
    """

    def mean(values: Float[Array, " L"]) -> Float[Array, ""]:
        return jnp.sum(values, where=bought.valid) / jnp.maximum(jnp.sum(bought.valid), 1)

    def gap(values: Float[Array, "L 2"]) -> Float[Array, " L"]:
        return values[:, 0] - values[:, 1]

    label, belief, truth = gap(bought.reward), gap(h), gap(reward)
    return {
        "surprise": mean((1 - jnp.sign(belief) * label) / 2),
        "truth": mean((1 + jnp.sign(truth) * label) / 2),
        "stake": mean(jnp.abs(truth)),
        "wrongness": mean(wrongness(h, reward)),
        "regret": mean(regret(h, reward)),
    }


def wrongness(h: Float[Array, "P 2"], reward: Float[Array, "P 2"]) -> Float[Array, " P"]:
    """Probability s(h_worse - h_better) that the policy would prefer the worse response.

    It is also the weight of the pair in DPO's gradient, if the label is right.

    Args:
        h: implicit reward of both responses of each pair.
        reward: the true one; says which response is the better.
    """
    return jax.nn.sigmoid(-(h[:, 0] - h[:, 1]) * jnp.sign(reward[:, 0] - reward[:, 1]))


def regret(h: Float[Array, "P 2"], reward: Float[Array, "P 2"]) -> Float[Array, " P"]:
    """Reward that a choice by the policy's implicit rewards would lose on each pair, expected.

    Args:
        h: implicit reward of both responses of each pair.
        reward: the true one.
    """
    return wrongness(h, reward) * jnp.abs(reward[:, 0] - reward[:, 1])


def choose(
    campaign: Campaign,
    h: Float[Array, "M P 2"],
    entropy: Float[Array, " P"],
    reward: Float[Array, "P 2"],
    tokens: Int[Array, "P 2 T"],
    bins: int,
    key: PRNGKeyArray,
) -> Int[Array, " labels"]:
    """The candidates that the campaign's acquisition function wants most.

    A pair of equal responses is wanted by none, since no label could tell them apart.

    Args:
        campaign: says which function decides.
        h: implicit reward of both responses of each candidate, for every member.
        entropy: predictive entropy of each candidate's context, nats.
        reward: true reward of both responses; ``"regret"`` alone may look at it.
        tokens: both responses; their places among the bins are what ``"diverse"`` spreads over.
        bins: K.
        key: consumed; breaks ties.
    """
    a, b = h[..., 0], h[..., 1]
    certainty = preference_certainty(a[0], b[0])
    differ = jnp.any(tokens[:, 0] != tokens[:, 1], axis=-1)
    entropy = jnp.where(differ, entropy, -jnp.inf)
    scores = {
        "random": jnp.zeros_like(certainty),
        "certainty": certainty,
        "uncertainty": uncertainty(certainty),
        "middle": middle(certainty),
        "tails": tails(certainty),
        "entropy": entropy,
        "hybrid": hybrid(entropy, certainty, campaign.pool),
        "disagreement": disagreement(a, b),
        "diverse": certainty,
        "regret": regret(h[0], reward),
    }
    stacked = jnp.stack([scores[name] for name in ACQUISITIONS])
    stacked = jnp.where(differ[None], stacked, -jnp.inf)
    number = jnp.asarray(campaign.acquisition, jnp.int32)
    best = select(stacked[number], campaign.labels, key)
    places = jnp.sort(tokens, axis=1).reshape(tokens.shape[0], -1) / bins
    spread = diverse(stacked[ACQUISITIONS.index("diverse")], places, campaign.labels, key)
    return jnp.where(number == ACQUISITIONS.index("diverse"), spread, best)


def learn(
    campaign: Campaign,
    policy: Policy,
    params: Params,
    reference: Params,
    prompts: Prompts,
    bought: Labelled,
    known: Int[Array, ""],
    key: PRNGKeyArray,
) -> Params:
    """Fine-tune a policy on the labels bought so far, with a fresh optimizer.

    Args:
        campaign: objective, steps, batch.
        policy: what the parameters belong to.
        params: where to begin.
        reference: what log-ratios are to.
        prompts: all contexts.
        bought: the labels.
        known: how many places of ``bought`` are filled.
        key: consumed.
    """
    optimizer = optax.adam(campaign.learning_rate)
    contexts = jax.tree.map(lambda leaf: leaf[bought.prompt], prompts)
    ref_logp = token_logp(policy, reference, contexts, bought.tokens)
    mask = jnp.ones(ref_logp.shape, bool)
    valid = jnp.broadcast_to(bought.valid[:, None], bought.reward.shape)
    responses = Responses(mask, bought.reward, ref_logp, ref_logp, None, valid)
    everything = (contexts, bought.tokens, responses)

    def loss(params: Params, batch: Any) -> Float[Array, ""]:
        contexts, tokens, responses = batch
        return campaign.objective(token_logp(policy, params, contexts, tokens), responses).mean()

    def step(carry: Any, rows: Int[Array, " batch"]) -> tuple[Any, None]:
        params, state = carry
        batch = jax.tree.map(lambda leaf: leaf[rows], everything)
        updates, state = optimizer.update(jax.grad(loss)(params, batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = (params, optimizer.init(params))
    rows = jax.random.randint(key, (campaign.steps, campaign.batch), 0, known)
    (params, _), _ = jax.lax.scan(step, start, rows)
    return params
