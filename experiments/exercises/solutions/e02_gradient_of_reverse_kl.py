# %% [markdown]
"""# 2. Where does the reverse KL push each logit? A solution.

The derivative in p_i is log p_i - log q_i + 1. Through the softmax it becomes p_i times what
exceeds its mean under p, so the 1 drops out, and the mean of log p - log q is the KL itself:

d/dz = p (log p - log q - KL).

The factor p is the whole character of the reverse KL: a bin without mass has no gradient, however
much the target wants it. The forward KL's p - q has no such factor.
"""

# %%
import jax
import jax.numpy as jnp

from experiments.exercises.checks import check


# %% Answer tags=["answer"]
def gradient(logits, target_logp):
    """d/dz KL(p || q) at p = softmax(logits), of shape [K]; log q is normalised."""
    logp = jax.nn.log_softmax(logits)
    p, log_ratio = jnp.exp(logp), logp - target_logp
    return p * (log_ratio - jnp.sum(p * log_ratio))


# %%
verdict = check("e02_gradient_of_reverse_kl", gradient)
