# %% [markdown]
"""# 2. Where does the reverse KL push each logit?

**15 minutes.** Reference: Tajwar et al. 2024, arXiv:2404.14367, section 6;
`objectives/divergences.py`.

The reverse KL from a policy p = softmax(z) to a target q is

KL(p || q) = sum p (log p - log q).

On-policy reinforcement learning with a KL penalty minimises it (exercise 4 says to which q), so its
gradient is what those methods do to the bins.

**Question.** Derive d/dz KL(p || q), bin by bin, and fill the answer cell. The check holds it
against automatic differentiation, and would not notice if you did the same; derive it by hand all
the same.

*Hint.* First the derivative in p, then through the softmax: exercise 1 is the chain rule you need,
since dp_i/dz_j = p_i (1[i = j] - p_j).

**What to look at.** The cell below compares a bin that the policy ignores (the last) under both
directions of the KL. The target wants it badly. Which gradient notices?
"""

# %%
import jax
import jax.numpy as jnp

from experiments.exercises.checks import check
from objectives import forward_kl, reverse_kl

z = jnp.array([3.0, 2.0, -6.0])
target_logp = jnp.log(jnp.array([0.2, 0.1, 0.7]))
for name, divergence in (("forward", forward_kl), ("reverse", reverse_kl)):
    gradient_in_z = jax.grad(lambda z, to=divergence: to(jax.nn.log_softmax(z), target_logp))(z)
    print(f"{name} KL, d/dz:", gradient_in_z.round(4))


# %% Answer tags=["answer"]
def gradient(logits, target_logp):
    """d/dz KL(p || q) at p = softmax(logits), of shape [K]; log q is normalised."""
    return ...


# %%
verdict = check("e02_gradient_of_reverse_kl", gradient)
