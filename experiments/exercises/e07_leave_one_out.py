# %% [markdown]
"""# 7. Whom should a response be compared with?

**20 minutes.** Reference: Ahmadian et al. 2024, arXiv:2402.14740 (RLOO); Shao et al. 2024,
arXiv:2402.03300 (GRPO); `objectives/advantages.py`.

A policy gradient raises each response by its advantage, A grad log p(y). A baseline b in
A = r - b takes noise away, and makes half of the advantages negative: this is where on-policy RL
gets its negative gradient. It leaves the expected gradient alone as long as b does not depend on y
itself, because then E[b grad log p(y)] = b E[grad log p(y)] = 0.

A group of N responses to one prompt offers its own mean as a baseline. There are two ways to take
it: the mean of the *other* N - 1 responses, or the mean of all N, the response itself included.

**Question.** (a) Write the advantage with the mean of the others, for rewards [B, N]. (b) The mean
of all N is biased: the expected gradient keeps its direction, and shrinks. Which share of it is
kept?

*Hint.* For (b) write r - (mean of all) in terms of r - (mean of the others).

**What to look at.** The cell below estimates one gradient from many groups, in three ways. Compare
their means, then their spreads. Does the shrinking matter under Adam?
"""

# %%
import numpy as np

from experiments.exercises.checks import check

N = 2
reward_of = np.array([5.0, 6.0, 8.0])
p = np.array([0.5, 0.3, 0.2])
bins = np.random.default_rng(0).choice(3, p=p, size=(20_000, N))
reward = reward_of[bins]
score = np.eye(3)[bins] - p  # grad log p(y)
print("exact gradient      ", (p * (reward_of - p @ reward_of)).round(3))
for name, A in (
    ("reward as it is", reward),
    ("minus its true mean", reward - p @ reward_of),
    ("minus the group's", reward - reward.mean(axis=-1, keepdims=True)),
):
    estimate = (A[..., None] * score).mean(axis=1)
    print(f"{name:20s}", estimate.mean(axis=0).round(3), " spread", estimate.std(axis=0).round(2))


# %% Answer tags=["answer"]
def advantage(reward):
    """Reward minus the mean of the others of its group, [B, N]."""
    return ...


def kept(N):
    """Share of the expected gradient that is left with the mean of all N as the baseline."""
    return ...


# %%
verdict = check("e07_leave_one_out", advantage, kept)
