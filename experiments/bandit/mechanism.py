"""Whose probability falls when a contrastive loss falls?

Command: ``modeseek reproduce mechanism``. Hardware and time: 13 s on one of two cores.
Number to expect: on R1, IPO with the reward threshold ends with the best response of a group
1.9 nats above the reference with 5 prompts and 1.0 nats below it with 50, while the margin to the
others stays near 5 nats. Feeds ``figures/mechanism.py``.

A contrastive loss sees only the *difference* between winner and loser. It can be widened by raising
the winner, or by lowering the loser more than the winner, and the mass then goes to a response that
is neither. Which one happens depends on how many prompts share the network's fixed capacity: here 5
to 50 prompts in the paper's network, each with 10 responses drawn once from the reference.

As in the authors' logs, a group's winner is its best response, the losers are all others, and both
are measured as log pi - log pi_ref on the prompts that are trained on. With a threshold most groups
on R1 hold no pair at all, because their best response earns too little, and the loss never raises
their "winners"; so the winners of the *pairs that the loss uses* are measured as well. The last
measure is the mass on what no group holds: a bin that is neither winner nor loser in its context.

Settings are those of the authors' offline IPO script (learning rate 0.003, target gap 10 nats, 200
steps, threshold 0.2), on both rewards, and on R1 also without the threshold. Every number of
prompts starts from the same network, fitted to the reference on all prompts, and a seed's first 5
prompts and their responses are the same in all of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from bandit import R1, R2, ContextualMLP, Problem, Start, prepare, seed_keys
from bandit.policies import Params, draw, token_logp
from bandit.sweep import COMPILER_OPTIONS, in_chunks
from experiments.intervals import difference, interval
from experiments.outcomes import judged
from experiments.results import Result, Size, Verdict
from objectives import IPO, Responses, pairs
from objectives.hyperparameters import Number
from objectives.labels import best
from objectives.pytrees import pytree

LEARNING_RATE = 0.003
RESPONSES = 10
STEPS = 200
RECORD_EVERY = 20
THRESHOLD = 0.2
CHUNK = 4
KEPT = 0.5
"""The margin "stays" if at least this share of it is left."""
PAPER = "Tajwar et al. 2024, section 5.2.2"


CASES = {
    "R1": (IPO(tau=0.05, threshold=THRESHOLD), R1),
    "R1, all pairs": (IPO(tau=0.05), R1),
    "R2": (IPO(tau=0.05, threshold=THRESHOLD), R2),
}

Measures = dict[str, Float[Array, "..."]]


@pytree
class Run:
    """What differs between runs.

    Attributes:
        case: index of an entry of ``CASES``.
        prompts: how many of the prompts are trained on.
        seed: index.
    """

    case: Int[Array, "..."]
    prompts: Int[Array, "..."]
    seed: Int[Array, "..."]


def run(size: Size) -> Result:
    """Train every case with every number of prompts."""
    counts = size.choose((5, 20), (5, 15, 50), (5, 10, 20, 50, 100, 200))
    steps = size.choose(100, STEPS, STEPS)
    grid = np.indices((len(CASES), len(counts), size.seeds)).reshape(3, -1)
    runs = Run(jnp.asarray(grid[0]), jnp.asarray(counts)[grid[1]], jnp.asarray(grid[2]))
    measured = program(max(counts), steps)(runs, seed_keys(0, size.seeds))
    shape = (len(CASES), len(counts), size.seeds, -1)
    arrays = {name: np.asarray(value).reshape(shape) for name, value in measured.items()}
    return Result(
        name="mechanism",
        verdicts=judge(arrays, counts),
        arrays=arrays | {"step": np.arange(0, steps + 1, RECORD_EVERY)},
        settings={
            "cases": list(CASES),
            "prompts": list(counts),
            "learning_rate": LEARNING_RATE,
            "responses": RESPONSES,
            "steps": steps,
            "seeds": size.seeds,
        },
    )


def program(most: int, steps: int) -> Any:
    """The compiled program of all runs; each trains on the first few of ``most`` prompts."""
    policy = ContextualMLP()
    cases = stack(list(CASES.values()))

    def runs(runs: Run, keys: PRNGKeyArray) -> Measures:
        start_keys, data_keys = jax.vmap(jax.random.split)(keys).T
        starts = in_chunks(lambda key: prepare(R1, policy, key, most), start_keys, CHUNK)

        def one(run: Run) -> Measures:
            objective, problem = jax.tree.map(lambda leaf: leaf[run.case], cases)
            start = jax.tree.map(lambda leaf: leaf[run.seed], starts)
            trained = jnp.arange(most) < run.prompts
            tokens, responses = collected(problem, trained, data_keys[run.seed])
            return train(objective, policy, start, tokens, responses, steps)

        return in_chunks(one, runs, CHUNK)

    return jax.jit(runs, compiler_options=COMPILER_OPTIONS)


def stack(values: list[Any]) -> Any:
    """Values of one structure as one value with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *values)


def collected(
    problem: Problem, trained: Bool[Array, " B"], key: PRNGKeyArray
) -> tuple[Int[Array, "B N 1"], Responses]:
    """Every prompt's responses, from the reference; only those of trained prompts are valid."""
    shape = (trained.shape[0], RESPONSES, 1)
    tokens = draw(key, problem.ref_logp, shape[0] * shape[1]).reshape(shape)
    logp = problem.ref_logp[tokens]
    reward = problem.reward[tokens][..., 0]
    valid = jnp.broadcast_to(trained[:, None], reward.shape)
    return tokens, Responses(jnp.ones(shape, bool), reward, logp, logp, None, valid)


def train(
    objective: IPO,
    policy: ContextualMLP,
    start: Start,
    tokens: Int[Array, "B N 1"],
    responses: Responses,
    steps: int,
) -> Measures:
    """Descend the objective and measure whose probability moves."""
    optimizer = optax.adam(LEARNING_RATE)

    def loss(params: Params) -> Float[Array, ""]:
        return objective(token_logp(policy, params, start.prompts, tokens), responses).mean()

    def measured(params: Params) -> Measures:
        logp = jax.nn.log_softmax(policy.forward(params, start.prompts))
        return measure(logp, tokens[..., 0], responses, objective.threshold)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    def block(carry: Any, _: None) -> tuple[Any, Measures]:
        carry, _ = jax.lax.scan(step, carry, length=RECORD_EVERY)
        return carry, measured(carry[0])

    carry = (start.params, optimizer.init(start.params))
    _, later = jax.lax.scan(block, carry, length=steps // RECORD_EVERY)
    first = measured(start.params)
    return jax.tree.map(lambda one, rest: jnp.concatenate([one[None], rest]), first, later)


def measure(
    logp: Float[Array, "B K"],
    bins: Int[Array, "B N"],
    responses: Responses,
    threshold: Number,
) -> Measures:
    """Whose probability is where.

    Args:
        logp: the policy's, of every bin in every training context.
        bins: each group's responses.
        responses: their rewards, and which of them are trained on.
        threshold: least difference in reward for a pair.

    Returns:
        Log-ratios to the reference in nats (``chosen``, ``rejected``, ``pair_winner``), the share
        of groups that hold a pair, and the mass on bins that the context's group does not hold.
    """
    ratio = jnp.take_along_axis(logp, bins, axis=-1) - responses.ref_logp[..., 0]
    exists = responses.exists
    chosen = best(responses.reward, exists)
    wins = jnp.sum(pairs(responses.reward, exists, "all", threshold), axis=-1)
    held = jnp.any(bins[..., None] == jnp.arange(logp.shape[-1])[None, None], axis=1)
    unseen = jnp.sum(jnp.where(held, 0, jnp.exp(logp)), axis=-1)
    trained = jnp.any(exists, axis=-1)
    return {
        "chosen": jnp.mean(ratio, where=chosen),
        "rejected": jnp.mean(ratio, where=exists & ~chosen),
        "pair_winner": jnp.sum(ratio * wins) / jnp.maximum(jnp.sum(wins), 1),
        "paired": jnp.mean(jnp.any(wins > 0, axis=-1), where=trained),
        "unseen": jnp.mean(unseen, where=trained),
    }


def judge(arrays: Mapping[str, np.ndarray], counts: Sequence[int]) -> list[Verdict]:
    """Every verdict.

    Args:
        arrays: what ``measure`` returns, ``[cases, numbers of prompts, seeds, records]``.
        counts: the numbers of prompts.
    """
    final = {name: dict(zip(CASES, arrays[name][..., -1], strict=True)) for name in arrays}
    chosen, rejected, unseen = final["chosen"], final["rejected"], final["unseen"]
    margin = {case: chosen[case] - rejected[case] for case in CASES}
    before = dict(zip(CASES, arrays["unseen"][..., 0], strict=True))
    few, many = f"{counts[0]} prompts", f"{counts[-1]} prompts"
    up = {case: interval(chosen[case][0]) for case in CASES}
    down = {case: interval(rejected[case][0]) for case in CASES}
    change = {case: difference(chosen[case][-1], chosen[case][0]) for case in CASES}
    end = {case: interval(chosen[case][-1]) for case in CASES}
    kept = {case: interval(margin[case][-1] - KEPT * margin[case][0]) for case in CASES}
    paired = {case: interval(final["pair_winner"][case][-1]) for case in CASES}
    gone = {case: difference(unseen[case][-1], before[case][-1]) for case in CASES}
    margins = {
        case: f"{interval(margin[case][0])} to {interval(margin[case][-1])}" for case in CASES
    }
    return [
        judged(
            "With few prompts IPO raises each group's best response and lowers the others",
            source=PAPER,
            evidence=f"log-ratio in nats with {few}, best and others: "
            + listed({case: f"{up[case]}, {down[case]}" for case in CASES}),
            holds={case: up[case].low > 0 and down[case].high < 0 for case in CASES},
        ),
        judged(
            "As prompts grow at fixed capacity, the best responses' log-ratio falls",
            source=PAPER,
            evidence=f"{many} - {few}, nats: {listed(change)}; with {many} it is {listed(end)}",
            holds={case: change[case].high < 0 for case in CASES},
        ),
        judged(
            "... while the margin to the other responses stays",
            source=PAPER,
            evidence=f"margin in nats, {few} to {many}: {listed(margins)}; stays means at least "
            f"{KEPT:g} of it",
            holds={case: kept[case].low > 0 for case in CASES},
        ),
        judged(
            "With many prompts too, the winners of the pairs that the loss uses stay likelier",
            source="this project",
            evidence=f"their log-ratio with {many}, nats: {listed(paired)}; groups that hold a "
            "pair: " + listed({case: interval(final["paired"][case][-1]) for case in CASES}),
            holds={case: paired[case].low > 0 for case in CASES},
        ),
        judged(
            "With many prompts the mass goes to responses outside the prompt's own group",
            source="Tajwar et al. 2024, takeaway 2",
            evidence=f"change of the mass outside the group with {many}: {listed(gone)}",
            holds={case: gone[case].low > 0 for case in CASES},
        ),
    ]


def listed(values: Mapping[str, object]) -> str:
    """Values with the case each belongs to."""
    return "; ".join(f"{value} ({case})" for case, value in values.items())
