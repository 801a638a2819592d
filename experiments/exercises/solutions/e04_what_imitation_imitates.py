# %% [markdown]
"""# 4. What does imitation imitate? A solution.

E_ref[-w log p] = sum pi_ref w (-log p) = Z sum q (-log p) with q = pi_ref w / Z: a cross-entropy to
q. For SFT q is the reference. For RWR q = pi_ref exp(r / beta) / Z, and that is pi*, because

E_p[r] - beta KL(p || pi_ref) = -beta sum p (log p - log pi_ref - r / beta)
= -beta KL(p || pi*) + beta log Z.

So RWR and RL have one optimum and two ways there. Best-of-two draws y as its best with probability
F(y)^2 - (F(y) - pi_ref(y))^2 = pi_ref(y) (2 F(y) - pi_ref(y)), where F(y) is the reference's mass
on responses no better than y. It knows ranks and no distances, has no beta, and never prefers
anything to its reference by more than a factor of 2.
"""

# %%
import jax
import jax.numpy as jnp

from experiments.exercises.checks import check


# %% Answer tags=["answer"]
def targets(ref_logp, reward, beta):
    """Log q of SFT, of RWR and of best-of-two, each of shape [K]."""
    sft = ref_logp
    rwr = jax.nn.log_softmax(ref_logp + reward / beta)
    p = jnp.exp(ref_logp)
    no_better = jnp.sum(jnp.where(reward[None] <= reward[:, None], p[None], 0), axis=-1)
    best_of_two = jnp.log(p * (2 * no_better - p))
    return sft, rwr, best_of_two


# %%
verdict = check("e04_what_imitation_imitates", targets)
