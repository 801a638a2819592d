# %% [markdown]
"""# 3. Which direction of the KL takes sides sooner? A solution.

The forward KL parts the bins at (q_1 - p) - (q_2 - p) = q_1 - q_2, the reverse KL at
p (log q_1 - log q_2): KL and log p are the same for both and cancel. So reverse KL is faster iff

p > (q_1 - q_2) / log(q_1 / q_2),

the logarithmic mean of q_1 and q_2, which lies between the geometric and the arithmetic one. Where
the policy has mass to spare reverse KL commits first; where it has yet to discover a bin it is the
slower one, and as slow as you like. That is what the far hill of the picture waits for.
"""

# %%
import jax.numpy as jnp

from experiments.exercises.checks import check


# %% Answer tags=["answer"]
def reverse_is_faster(p, q_1, q_2):
    """Whether reverse KL parts two bins of equal p faster than forward KL does, q_1 > q_2."""
    return p * jnp.log(q_1 / q_2) > q_1 - q_2


# %%
verdict = check("e03_cover_or_seek", reverse_is_faster)
