# %% [markdown]
"""# 8. How old are the data of a step, and what would make them fresh?

**20 minutes.** Reference: Tajwar et al. 2024, arXiv:2404.14367, Algorithm 1 and section 5.1;
`objectives/recipes.py`.

Algorithm 1 collects B prompts' worth of responses from the policy, cuts them into minibatches of M,
and makes T passes over them, one gradient step per minibatch. Then it collects again. T says how
often samples are *reused*, B/M how far *off-policy* the last step of a pass is, even if every
sample is used once. In both cases the policy has moved on since the data were drawn.

**Question.** (a) Give the age of the data at gradient step 0, 1, 2, ...: the number of steps taken
since they were drawn. (b) Data of an old policy p_old teach the wrong gradient:
E_old[A grad log p] is not E_p[A grad log p]. Which weight on each sample makes it right in
expectation?

*Hint.* For (b) write both expectations as sums over bins.

**What to look at.** The picture: best-of-two on its own samples, each step exactly in expectation,
collecting anew after every step or after every 50. What does the stale run do between two
collections? It imitates the winners of a policy it has left, until nothing is left to imitate.
"""

# %%
import jax
import jax.numpy as jnp
import optax
from matplotlib import pyplot as plt

from bandit import R1
from bandit.exact import expected_velocity
from experiments.exercises.checks import check
from experiments.exercises.pictures import look
from objectives import BestOfN, Collection, Recipe

recipe = Recipe(BestOfN(), Collection(source="policy"))
optimizer = optax.adam(0.05)


@jax.jit
def rewards(T):
    """Expected reward after each of 200 steps that collect anew every T."""

    def step(carry, taken):
        z, drew, state = carry
        drew = jnp.where(taken % T == 0, z, drew)
        velocity = expected_velocity(recipe, R1, z, behaviour=drew)
        updates, state = optimizer.update(-velocity, state)
        return (z + updates, drew, state), jax.nn.softmax(z + updates) @ R1.reward

    start = (R1.ref_logp, R1.ref_logp, optimizer.init(R1.ref_logp))
    return jax.lax.scan(step, start, jnp.arange(200))[1]


figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
for T in (1, 50):
    axis.plot(rewards(T), label=f"T = {T}")
axis.set(xlabel="gradient step", ylabel="expected reward", ylim=(0, 1))
axis.legend()
look(figure, "e08_stale_data")


# %% Answer tags=["answer"]
def age(step, T, minibatches):
    """Gradient steps since the data of this step were drawn; step 0 is fresh. B/M minibatches."""
    return ...


def weight(logp, old_logp):
    """Weight of a sample of each bin, [K], drawn by the old policy and used by the present one."""
    return ...


# %%
verdict = check("e08_stale_data", age, weight)
