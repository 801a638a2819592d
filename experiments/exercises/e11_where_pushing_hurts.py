# %% [markdown]
"""# 11. Where does the negative gradient hurt?

**30 minutes, open-ended.** Reference: Tajwar et al. 2024, arXiv:2404.14367, sections 5.2.1 and 6,
Lemma 6.2; `experiments/bandit/negative_gradient.py`, `bandit.theory.lemma_6_2`.

The paper recommends objectives with a negative gradient: pushing losers down carries mass beyond
the data. Best-of-N only pulls. Both learn here from one data set of the reference, one row of
logits, 200 steps of Adam, each at its own best of the rates 0.01, 0.03 and 0.1 (chosen on the other
seeds). At a peak of 70, a width of 30 and 100 groups of 2, DPO ends 0.24 ± 0.02 above best-of-N.

You may change the world and the data: where the reward exp(-((bin - peak) / width)^2) has its peak
and how wide it is, how many groups there are (up to 200) and of how many responses (up to 10).
DPO's beta stays 0.1.

**Question.** Find a setting in which DPO ends *below* best-of-N, over 64 seeds and beyond the 95%
interval, while best-of-N itself gains something.

*Hint.* DPO sees a pair as a difference of two logits. What do the data have to say about two
winners of groups that share no bin, and what decides between them if the data do not? What decides
for best-of-N?

**What to look at.** The cell below draws the reference and a reward. How good is the reference's
own opinion of the bins? (Lemma 6.2 names another way to be hurt: the winner itself falls if a third
response holds most of the mass.)
"""

# %%
import jax.numpy as jnp
from matplotlib import pyplot as plt

from bandit import R1, bump
from experiments.exercises.checks import check
from experiments.exercises.pictures import look

figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
axis.plot(jnp.exp(R1.ref_logp), label="reference, probability")
axis.plot(0.08 * bump(peak=70, width=30), label="reward, scaled")
axis.set(xlabel="bin")
axis.legend()
look(figure, "e11_where_pushing_hurts")


# %% Answer tags=["answer"]
def setting():
    """The reward's peak and width in bins, the number of groups and of responses in each."""
    peak = ...
    width = ...
    prompts = ...
    responses = ...
    return peak, width, prompts, responses


# %%
verdict = check("e11_where_pushing_hurts", setting)
