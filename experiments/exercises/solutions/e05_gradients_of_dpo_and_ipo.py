# %% [markdown]
"""# 5. How hard do DPO and IPO push the two ends of a pair? A solution.

By the chain rule DPO's derivative in d is -beta s(-beta d): beta times the probability that the
policy, read as a Bradley-Terry model, gives to the wrong order. It fades as the pair comes right
and is never 0, so on separable data the gap grows without end. IPO's is 2 (d - 1 / (2 tau)): it
ends at a gap of 1 / (2 tau) and pulls back beyond. Both have the same slope in D_l with the other
sign: as hard as the winner is pulled up, the loser is pushed down.
"""

# %%
import jax

from experiments.exercises.checks import check


# %% Answer tags=["answer"]
def gradients(D_w, D_l, beta, tau):
    """Derivatives of each pair's loss, four arrays of shape [B]."""
    d = D_w - D_l
    dpo = -beta * jax.nn.sigmoid(-beta * d)
    ipo = 2 * (d - 1 / (2 * tau))
    return dpo, -dpo, ipo, -ipo


# %%
verdict = check("e05_gradients_of_dpo_and_ipo", gradients)
