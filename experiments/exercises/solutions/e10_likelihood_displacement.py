# %% [markdown]
"""# 10. When does the preferred response become less likely, too? A solution.

What counts is pairs per row. With a row for each prompt the winners rise by almost 4 nats and the
losers fall by 6, however many prompts there are. With 100 prompts in one row the winners fall by 6
nats and the losers by 14: a bin that wins one pair loses another, to a better bin still, and the
targets of all pairs could only be met by a ladder of 10 nats a step. The mass climbs to its top: in
the end 97% of it is on bins that never lost a pair, which had 17%, and 81% on three of them (means
over 64 seeds). Most winners are not among those. A language model has no rows, but what its
parameters can hold for each prompt is limited in the same way.
"""

# %%
from experiments.exercises.checks import check


# %% Answer tags=["answer"]
def setting():
    """How many prompts there are, and how many rows they share."""
    prompts = 100
    rows = 1
    return prompts, rows


# %%
verdict = check("e10_likelihood_displacement", setting)
