# %% [markdown]
"""# 1. How fast does a bin move when its logit does?

**10 minutes.** Reference: Tajwar et al. 2024, arXiv:2404.14367, section 6 (what it takes for
granted); `bandit/theory.py`.

A policy over K bins is a softmax of logits, p = exp(z) / sum exp(z). Every method of this course
does one thing: it gives each logit a velocity v = dz/dt, and the bins follow. But a bin does not
follow its own logit alone. If all logits rise together nothing moves, and a bin that nobody touches
loses mass when another one is raised.

**Question.** Derive dp/dt from log p and v, and fill the answer cell.

*Hint.* Start with d/dt log p. The derivative of log sum exp(z) is a mean of v; under which
distribution?

**What to look at.** The cell below moves one logit of five and measures. Which bins move, and what
do their velocities add up to? Predict what happens when p[0] is 0.999 before you try it.
"""

# %%
import numpy as np

from experiments.exercises.checks import check


def softmax(z):
    """Probabilities of the bins."""
    return np.exp(z) / np.exp(z).sum()


z = np.array([2.0, 1.0, 0.0, 0.0, -1.0])
v = np.array([1.0, 0.0, 0.0, 0.0, 0.0])
step = 1e-3
measured = (softmax(z + step * v) - softmax(z - step * v)) / (2 * step)
print("p       ", softmax(z).round(3))
print("measured", measured.round(3), " sum", round(measured.sum(), 3))


# %% Answer tags=["answer"]
def velocity(logp, v):
    """dp/dt of every bin, of shape [K], from log p and the velocities of the logits."""
    return ...


# %%
verdict = check("e01_velocity_of_a_bin", velocity)
