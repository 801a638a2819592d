# %% [markdown]
"""# 1. How fast does a bin move when its logit does? A solution.

log p = z - log sum exp(z), and the derivative of the second term is sum p v, the mean velocity
under the policy itself. So d/dt log p = v - sum p v: only what a logit does *beyond the mean*
counts. Multiply by p for the bin. At p[0] = 0.999 nothing moves any more, whichever logit is
pushed: a softmax that is sure is slow, which is why collapse is hard to undo.
"""

# %%
import jax.numpy as jnp

from experiments.exercises.checks import check


# %% Answer tags=["answer"]
def velocity(logp, v):
    """dp/dt of every bin, of shape [K], from log p and the velocities of the logits."""
    p = jnp.exp(logp)
    return p * (v - jnp.sum(p * v))


# %%
verdict = check("e01_velocity_of_a_bin", velocity)
