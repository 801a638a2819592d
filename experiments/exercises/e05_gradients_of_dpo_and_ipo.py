# %% [markdown]
"""# 5. How hard do DPO and IPO push the two ends of a pair?

**20 minutes.** Reference: Rafailov et al. 2023, arXiv:2305.18290, eq. 7; Azar et al. 2023,
arXiv:2310.12036, eq. 17; `objectives/contrastive.py`.

A pair is a preferred response w and a dispreferred one l. Write D_y = log p(y) - log pi_ref(y) for
the log-ratio of a response and d = D_w - D_l for the gap between them. Then

- DPO: -log s(beta d), with the sigmoid s;
- IPO: (d - 1 / (2 tau))^2.

Neither knows D_w or D_l, only their difference, so each has two gradients that are one and the same
up to sign. That second one, on the loser, is the paper's *negative gradient*.

**Question.** Give the derivatives of both losses in D_w and in D_l, for a batch of pairs.

*Hint.* s'(x) = s(x) s(-x), so the derivative of -log s(x) is -s(-x).

**What to look at.** The picture: the two losses against the gap. Where is the slope of each
steepest, where is it zero, and what does that mean for a pair that has long been right?
"""

# %%
import jax.numpy as jnp
from matplotlib import pyplot as plt

from experiments.exercises.checks import check
from experiments.exercises.pictures import look
from objectives import DPO, IPO, Responses

beta, tau = 1.0, 0.25
gap = jnp.linspace(-4, 8, 121)
log_ratio = jnp.stack([gap, jnp.zeros_like(gap)], axis=-1)[..., None]  # [B, N, T]: D_l = 0
reward = jnp.broadcast_to(jnp.array([[1.0, 0.0]]), (len(gap), 2))
zeros = jnp.zeros_like(log_ratio)
pairs = Responses(jnp.ones(zeros.shape, bool), reward, ref_logp=zeros, old_logp=zeros)

figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
for objective in (DPO(beta=beta), IPO(tau=tau)):
    axis.plot(gap, objective(log_ratio, pairs).value[:, 0, 1], label=type(objective).__name__)
axis.set(xlabel="gap d, nats", ylabel="loss of a pair", ylim=(0, 16))
axis.legend()
look(figure, "e05_gradients_of_dpo_and_ipo")


# %% Answer tags=["answer"]
def gradients(D_w, D_l, beta, tau):
    """Derivatives of each pair's loss, four arrays of shape [B]."""
    dpo_w = ...
    dpo_l = ...
    ipo_w = ...
    ipo_l = ...
    return dpo_w, dpo_l, ipo_w, ipo_l


# %%
verdict = check("e05_gradients_of_dpo_and_ipo", gradients)
