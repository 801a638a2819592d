# %% [markdown]
"""# 6. What does a KL penalty made of samples pull towards? A solution.

The gradient of k(x) is k'(x) (e_y - p), and its mean is p k' minus p times the mean of k'.

- k1' = 1: the mean of e_y - p, which is 0. A k1 penalty pulls nowhere and adds noise.
- k2' = x: p (x - KL), the gradient of the reverse KL, though k2 is biased as a number.
- k3' = 1 - exp(-x) = 1 - pi_ref / p: p - pi_ref, the gradient of the *forward* KL, KL(pi_ref || p).

As numbers k1 and k3 are unbiased, because there the distribution of the samples moves with p. As a
loss it does not. So a penalty is chosen by its gradient: k2 for a reverse KL; GRPO's k3 covers.
"""

# %%
import jax.numpy as jnp

from experiments.exercises.checks import check


# %% Answer tags=["answer"]
def expected_gradients(logp, ref_logp):
    """Expected gradients in z of k1, k2 and k3, each of shape [K]."""
    p, x = jnp.exp(logp), logp - ref_logp
    k1 = jnp.zeros_like(p)
    k2 = p * (x - jnp.sum(p * x))
    k3 = p - jnp.exp(ref_logp)
    return k1, k2, k3


# %%
verdict = check("e06_kl_estimators", expected_gradients)
