# %% [markdown]
"""# 11. Where does the negative gradient hurt? A solution.

Keep the world and take away data: 5 groups of 4 instead of 100 of 2. Five bins win, and hardly any
pair compares one of them with another. Best-of-N gives each the same share, whatever the reference
thought of it. DPO moves winners away from losers and leaves among winners much of what the
reference had, and the reference likes the wrong bins. After 200 steps at rate 0.1 nearly all mass
is on winners either way: it earns 0.50 with best-of-N, their plain mean, and 0.38 with DPO (means
over 64 seeds). Bins of no pair are not to blame: a gap is a difference of two logits, so theirs
never move. With 100 groups winners meet each other, DPO can rank them, and it is ahead. A push
needs pairs enough to say where the mass must not go.
"""

# %%
from experiments.exercises.checks import check


# %% Answer tags=["answer"]
def setting():
    """The reward's peak and width in bins, the number of groups and of responses in each."""
    peak = 70
    width = 30
    prompts = 5
    responses = 4
    return peak, width, prompts, responses


# %%
verdict = check("e11_where_pushing_hurts", setting)
