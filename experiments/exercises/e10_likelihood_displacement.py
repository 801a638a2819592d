# %% [markdown]
"""# 10. When does the preferred response become less likely, too?

**20 minutes.** Reference: Tajwar et al. 2024, arXiv:2404.14367, section 5.2.2;
`experiments/bandit/mechanism.py`.

A contrastive loss sees the gap between winner and loser and nothing else. It is content when the
winner rises, and just as content when both fall and the loser falls further. On language models the
second is what one often sees: the log-ratios of chosen and rejected answers both go below zero.

Here is a policy simple enough to see why: a table of logits with a few rows, and prompts that take
turns in sharing them. With as many rows as prompts every pair has a table of its own. With fewer,
pairs pull at the same logits, and one pair's winner may be another's loser.

The world is R1: each prompt has one pair, drawn from the reference and labelled by the true reward.
IPO with a target gap of 10 nats takes 200 full-batch steps of Adam at rate 0.1.

**Question.** Find a number of prompts (up to 200) and of rows with which the *winners* end below
the reference, on average over 16 seeds and beyond the 95% interval.

*Hint.* How often does a response of one pair stand in another pair of the same row?

**What to look at.** The check prints both log-ratios. Their difference is near the target whatever
you choose. So where has the mass gone? Not to bins of no pair: a gap is a difference of two logits,
and theirs never move.
"""

# %%
from experiments.exercises.checks import check


# %% Answer tags=["answer"]
def setting():
    """How many prompts there are, and how many rows they share."""
    prompts = ...
    rows = ...
    return prompts, rows


# %%
verdict = check("e10_likelihood_displacement", setting)
