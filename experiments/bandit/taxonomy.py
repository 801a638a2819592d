"""Which methods push some responses down, and how hard does each pull and push?

Command: ``modeseek reproduce taxonomy``. Hardware and time: 2 s on one of two cores, nearly all of
it compilation. Number to expect: the sign of what is measured agrees with what each of the 16
objective classes says of itself. Feeds ``figures/taxonomy.py``.

The force on a response is minus the derivative of the loss in its log-probability, with the policy
at the reference. The picture shows four equally likely responses with evenly spaced rewards; the
verdicts use random groups of four (uniform rewards, random probabilities), each a batch of its
own. A recipe brings its own numbers and its own advantage estimator, so what is measured is the
method as it runs.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bandit.sweep import COMPILER_OPTIONS
from experiments.results import Outcome, Result, Size, Verdict
from objectives import ADVANTAGES, OBJECTIVES, RECIPES, Recipe, Responses, group_zscore
from objectives.advantages import running_mean
from objectives.taxonomy import taxonomy_rows

GROUPS = 100
REWARDS = (1.0, 2 / 3, 1 / 3, 0.0)
TINY = 1e-6
PAPER = "Tajwar et al. 2024, Table 1"

# On-policy sampling, sample reuse, negative gradient; None where the paper says "not applicable".
TABLE_1 = {
    "ppo": (True, True, True),
    "reinforce": (True, False, True),
    "dpo": (False, None, True),
    "ipo": (False, None, True),
    "pref_ft": (False, None, False),
    "rwr": (False, None, False),
    "best_of_n": (False, None, False),
    "online_rwr": (True, True, False),
    "online_best_of_n": (True, True, False),
}


def run(size: Size) -> Result:
    """Measure the force of every recipe on one group, and on random ones."""
    rngs = [np.random.default_rng(seed) for seed in range(size.seeds)]
    rewards = [[REWARDS], *(rng.uniform(size=(GROUPS, 4)) for rng in rngs)]
    shares = [[[0.25] * 4], *(rng.dirichlet(np.ones(5), GROUPS)[:, :4] for rng in rngs)]
    # The group that is drawn comes first, the random ones after it: one compilation.
    every, raw = every_force(np.concatenate(rewards), np.log(np.concatenate(shares)))
    forces, without_baseline = np.asarray(every), np.asarray(raw)

    pushes = dict(zip(RECIPES, share_pushed(forces[:, 1:]).tolist(), strict=True))
    rows = taxonomy_rows()
    verdicts = [
        classes_agree({row.objective: row.negative_gradient for row in rows}, pushes_of(pushes)),
        table_1(pushes),
        baseline(float(share_pushed(without_baseline[None, 1:])[0]), pushes["reinforce"]),
    ]
    settings = {
        "rewards": list(REWARDS),
        "groups": GROUPS,
        "seeds": size.seeds,
        "recipes": [
            {
                "name": name,
                "objective": type(recipe.objective).__name__,
                "on_policy": recipe.on_policy,
                "reuse": recipe.reuse.inner_steps,
                "pushes": bool(pushes[name] > 0),
            }
            for name, recipe in RECIPES.items()
        ],
    }
    arrays = {"forces": forces[:, 0], "pushed": np.array(list(pushes.values()))}
    return Result(name="taxonomy", verdicts=verdicts, arrays=arrays, settings=settings)


@partial(jax.jit, compiler_options=COMPILER_OPTIONS)
@partial(jax.vmap, out_axes=(1, 0))
def every_force(reward: Any, logp: Any) -> tuple[Any, Any]:
    """The force of every recipe on every group, and that of REINFORCE without a baseline.

    Each group is a batch of its own: a baseline knows nothing of the others.

    Args:
        reward: [B, N] of each response.
        logp: [B, N] of each response, under policy, reference and sampler alike.

    Returns:
        [recipes, B, N] and [B, N].
    """
    reward, logp = reward[None], logp[None]
    forces = [
        force(recipe.objective, advantage_of(recipe, reward), reward, logp)
        for recipe in RECIPES.values()
    ]
    raw = force(RECIPES["reinforce"].objective, reward, reward, logp)
    return jnp.concatenate(forces), raw[0]


def advantage_of(recipe: Recipe, reward: Any) -> Any:
    """What the recipe's estimator makes of the rewards; None if it has none."""
    exists = jnp.ones(reward.shape, bool)
    if recipe.advantage is None:
        return None
    if recipe.advantage == "running_mean":
        return running_mean(reward, exists)[0]
    if recipe.advantage == "group_zscore":
        return group_zscore(reward, exists, floor=recipe.std_floor)
    return ADVANTAGES[recipe.advantage](reward, exists)


def force(objective: Any, advantage: Any, reward: Any, logp: Any) -> Any:
    """Minus the gradient of the summed loss in the log-probability of each response: [B, N]."""
    logp = logp[..., None]
    responses = Responses(
        mask=jnp.ones(logp.shape, bool),
        reward=reward,
        ref_logp=logp,
        old_logp=logp,
        advantage=None if advantage is None else advantage[..., None],
    )
    return -jax.grad(lambda x: objective(x, responses).total()[0])(logp)[..., 0]


def share_pushed(forces: np.ndarray) -> np.ndarray:
    """Share of groups in which some response is pushed down: [recipes] from [recipes, B, N]."""
    largest = np.abs(forces).max(axis=-1)
    return np.mean(forces.min(axis=-1) < -TINY * largest, axis=-1)


def pushes_of(pushes: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Least and largest share of groups pushed, over the recipes of each objective class."""
    by_class: dict[str, list[float]] = {name: [] for name in OBJECTIVES}
    for name, share in pushes.items():
        by_class[type(RECIPES[name].objective).__name__].append(share)
    return {name: (min(shares), max(shares)) for name, shares in by_class.items()}


def classes_agree(says: dict[str, bool], measured: dict[str, tuple[float, float]]) -> Verdict:
    """Held if pushing classes push in every group, and the others in none."""
    wrong = [
        name
        for name, pushes in says.items()
        if measured[name] != ((1.0, 1.0) if pushes else (0.0, 0.0))
    ]
    return Verdict(
        claim="What each objective class says about its negative gradient is what it does",
        source="objectives",
        outcome="did not hold" if wrong else "held",
        evidence=f"{len(says) - len(wrong)} of {len(says)} classes: {sum(says.values())} push in "
        f"every random group, {len(says) - sum(says.values())} in none"
        + (f"; not so: {', '.join(wrong)}" if wrong else ""),
    )


def table_1(pushes: dict[str, float]) -> Verdict:
    """Held if every row agrees in all three columns; conditional if only reuse differs."""
    reuse, other = [], []
    for name, (on_policy, reused, negative) in TABLE_1.items():
        recipe = RECIPES[name]
        if recipe.on_policy != on_policy or (pushes[name] > 0) != negative:
            other.append(name)
        elif reused is not None and (recipe.reuse.inner_steps > 1) != reused:
            reuse.append(name)
    outcome: Outcome = "held"
    condition = ""
    if other:
        outcome = "did not hold"
    elif reuse:
        outcome = "held under this condition"
        condition = f"sample reuse, T > 1, is switched on for {' and '.join(reuse)}"
    agree = len(TABLE_1) - len(other) - len(reuse)
    return Verdict(
        claim="The recipes are the rows of Table 1: on-policy sampling, sample reuse, negative "
        "gradient",
        source=PAPER,
        outcome=outcome,
        condition=condition,
        evidence=f"{agree} of {len(TABLE_1)} rows agree in every column"
        + (f"; T = 1 here for {', '.join(reuse)}: reuse is a number of a recipe" if reuse else "")
        + (f"; not so: {', '.join(other)}" if other else ""),
    )


def baseline(without: float, with_it: float) -> Verdict:
    """Held if positive rewards alone never push, and do in every group with a baseline."""
    return Verdict(
        claim="On-policy RL has a negative gradient because a baseline is subtracted",
        source=f"{PAPER}, remark",
        outcome="held" if without == 0 and with_it == 1 else "did not hold",
        evidence=f"REINFORCE pushes something down in {without:.0%} of random groups on raw "
        f"positive rewards, in {with_it:.0%} with a running mean subtracted",
    )
