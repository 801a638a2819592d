# %% [markdown]
"""# 7. Whom should a response be compared with? A solution.

The mean of the others is (sum r - r) / (N - 1). With b its value, the mean of all N is
(r + (N - 1) b) / N, so r - (mean of all) = (N - 1) / N (r - b): the same advantage times
(N - 1) / N. For N = 2 half of the gradient is gone, for N = 16 a sixteenth. Adam divides by the
gradient's size and does not care; plain descent, a KL penalty beside it, or groups of different
sizes do.
"""

# %%
import jax.numpy as jnp

from experiments.exercises.checks import check


# %% Answer tags=["answer"]
def advantage(reward):
    """Reward minus the mean of the others of its group, [B, N]."""
    others = jnp.sum(reward, axis=-1, keepdims=True) - reward
    return reward - others / (reward.shape[-1] - 1)


def kept(N):
    """Share of the expected gradient that is left with the mean of all N as the baseline."""
    return (N - 1) / N


# %%
verdict = check("e07_leave_one_out", advantage, kept)
