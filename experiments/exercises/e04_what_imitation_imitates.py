# %% [markdown]
"""# 4. What does imitation imitate?

**25 minutes.** Reference: Rafailov et al. 2023, arXiv:2305.18290, eq. 4; Peters and Schaal 2007;
Tajwar et al. 2024, arXiv:2404.14367, Table 1.

RL with a KL penalty maximises E_p[r] - beta KL(p || pi_ref). The best policy there is, pi*, has a
closed form, and the objective is -beta KL(p || pi*) up to a constant: on-policy RL is reverse KL to
pi*.

Supervised methods imitate responses of the reference, each with a weight: the loss is
E_ref[-w log p]. Whatever the weights are, that is a *forward* KL to some target q times a constant,
and every step moves the logits along q - p. Only q differs:

- SFT imitates every response, w = 1;
- RWR (reward-weighted regression) has w = exp(r / beta);
- best-of-two draws two responses, and imitates the better.

**Question.** Give log q for each of the three, normalised. One of them is pi*: prove that too, on
paper. All rewards are different.

*Hint.* For best-of-two: with which probability is the best of two draws y? Mind the pairs of two
equal responses.

**What to look at.** The cell below prints where the library's objectives push a policy that knows
nothing. Raise the last bin's reward from 3 to 30: which of the three notices?
"""

# %%
import jax
import jax.numpy as jnp

from bandit import Problem
from bandit.exact import expected_velocity
from experiments.exercises.checks import check
from objectives import RWR, SFT, BestOfN, Collection, Recipe

problem = Problem(ref_logp=jnp.log(jnp.array([0.6, 0.3, 0.1])), reward=jnp.array([0.0, 1.0, 3.0]))
data = Collection(source="reference")
for objective in (SFT(), RWR(beta=1.0), BestOfN()):
    pushed = jax.jit(expected_velocity)(Recipe(objective, data), problem, jnp.zeros(3))
    print(f"{type(objective).__name__:8s} pushes the logits at", pushed.round(3))


# %% Answer tags=["answer"]
def targets(ref_logp, reward, beta):
    """Log q of SFT, of RWR and of best-of-two, each of shape [K]."""
    sft = ...
    rwr = ...
    best_of_two = ...
    return sft, rwr, best_of_two


# %%
verdict = check("e04_what_imitation_imitates", targets)
