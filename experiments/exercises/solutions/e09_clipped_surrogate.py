# %% [markdown]
"""# 9. Which samples does PPO stop learning from? A solution.

The loss is max(-A rho, -A clip(rho)). For A > 0 the clipped term is the larger loss only above
1 + high: a good sample that has become likely enough. For A < 0 only below 1 - low: a bad one that
has become unlikely enough. Elsewhere the unclipped term decides, and so a sample that has gone the
*wrong* way, a good one below 1 - low say, is called back with full force. `clip_fraction` counts
those too, so it is an upper bound of the share that falls silent. And nothing bounds the loss of a
bad sample whose ratio explodes: that is what the dual clip is for.
"""

# %%
import jax.numpy as jnp

from experiments.exercises.checks import check


# %% Answer tags=["answer"]
def loss(ratio, advantage, low, high):
    """PPO's loss of each sample, of shape [N]."""
    return jnp.maximum(-advantage * ratio, -advantage * jnp.clip(ratio, 1 - low, 1 + high))


def silent(ratio, advantage, low, high):
    """Which samples get no gradient, of shape [N]."""
    return jnp.where(advantage > 0, ratio > 1 + high, ratio < 1 - low)


# %%
verdict = check("e09_clipped_surrogate", loss, silent)
