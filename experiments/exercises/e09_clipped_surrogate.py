# %% [markdown]
"""# 9. Which samples does PPO stop learning from?

**20 minutes.** Reference: Schulman et al. 2017, arXiv:1707.06347, eq. 7;
`objectives/policy_gradient.py`.

With the weight rho = p / p_old of exercise 8, A rho is an unbiased surrogate on old data, and a
dangerous one: nothing stops a step from driving rho far from 1, where the estimate is worthless.
PPO is pessimistic. It takes the worse of two values, with the ratio as it is and with the ratio
held between 1 - low and 1 + high, and where the second is the worse one, the gradient is zero.

**Question.** (a) Write PPO's *loss* per sample. (b) Say which samples get no gradient. No ratio
lies on a border, and no advantage is zero.

*Hint.* Worse means smaller for what is maximised and larger for a loss. Draw the loss over rho for
A = 1 and for A = -1 before you answer (b); the two pictures are not mirror images.

**What to look at.** After your answer: TRL, and the papers, report the share of ratios outside the
borders as `clip_fraction`. Is that the share of samples that fall silent?
"""

# %%
import jax.numpy as jnp

from experiments.exercises.checks import check

ratio = jnp.array([0.5, 0.9, 1.1, 1.6])
print("ratio           ", ratio)
print("held at 0.2, 0.3", jnp.clip(ratio, 1 - 0.2, 1 + 0.3))


# %% Answer tags=["answer"]
def loss(ratio, advantage, low, high):
    """PPO's loss of each sample, of shape [N]."""
    return ...


def silent(ratio, advantage, low, high):
    """Which samples get no gradient, of shape [N]."""
    return ...


# %%
verdict = check("e09_clipped_surrogate", loss, silent)
