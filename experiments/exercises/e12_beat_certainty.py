# %% [markdown]
"""# 12. Which labels would you buy?

**30 minutes, open-ended.** Reference: Muldrew et al. 2024, arXiv:2402.08114, Algorithm 1;
`bandit/active.py`, `objectives/acquisition.py`.

Labels cost money. In each of 6 rounds the policy proposes a pair in each of 256 contexts, an
acquisition function picks 16, the true reward labels them (noisily: Bradley-Terry at a temperature
of 0.1), and DPO starts again from the reference with all labels so far. The paper's function is
*preference certainty*, |h_w - h_l| with the implicit reward h = beta (log p - log pi_ref): ask
where the policy is sure, since there it is worst to be wrong. In this world, R1, whose peak lies
where the reference is thin, certainty is no better than choosing at random.

**Question.** Design a function that is better than both: more reward, averaged over the rounds,
from the same number of labels, over 12 seeds and beyond the 95% interval. It sees the fields of
`experiments.exercises.campaign.Candidates`, numpy arrays, and not the reward. You know where the
peak is; your function does not, so do not write 70.

*Hint.* A label is worth what is at stake times how wrong the policy is. Which of the candidates
could show the policy something that it has never seen, and how can you tell from what is there?

**What to look at.** The curves. Then call `campaign(score, R2)`, whose peak lies where the
reference is thick: is your function still ahead of chance? The check does not ask for that. Should
it?
"""

# %%
import numpy as np
from matplotlib import pyplot as plt

from experiments.exercises.campaign import campaign
from experiments.exercises.checks import check
from experiments.exercises.checks.labels import certainty, chance
from experiments.exercises.pictures import look


# %% Answer tags=["answer"]
def score(candidates):
    """A score for each of the P candidates; the 16 largest are bought."""
    return ...


# %%
verdict = check("e12_beat_certainty", score)

# %%
if verdict.outcome != "not answered":
    figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
    for name, function in (("yours", score), ("certainty", certainty), ("chance", chance)):
        axis.plot(16 * np.arange(1, 7), campaign(function).mean(axis=0), label=name)
    axis.set(xlabel="labels", ylabel="expected reward", ylim=(0, 1))
    axis.legend()
    look(figure, "e12_beat_certainty")
