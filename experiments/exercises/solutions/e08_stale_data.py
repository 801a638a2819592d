# %% [markdown]
"""# 8. How old are the data of a step, and what would make them fresh? A solution.

A collection lasts T passes of B/M steps, so the age is the step modulo T B/M. For fresh data both
numbers are 1.

E_p[A grad log p] = sum p A grad log p = sum p_old (p / p_old) A grad log p, so the weight is the
ratio p / p_old = exp(log p - log p_old). It is right in expectation only: where p has moved to bins
that p_old hardly draws, few samples carry huge weights. Exercise 9 is what PPO does about that.
"""

# %%
import jax.numpy as jnp

from experiments.exercises.checks import check


# %% Answer tags=["answer"]
def age(step, T, minibatches):
    """Gradient steps since the data of this step were drawn; step 0 is fresh. B/M minibatches."""
    return step % (T * minibatches)


def weight(logp, old_logp):
    """Weight of a sample of each bin, [K], drawn by the old policy and used by the present one."""
    return jnp.exp(logp - old_logp)


# %%
verdict = check("e08_stale_data", age, weight)
