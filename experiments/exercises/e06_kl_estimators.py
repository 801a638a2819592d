# %% [markdown]
"""# 6. What does a KL penalty made of samples pull towards?

**20 minutes.** Reference: Schulman 2020, "Approximating KL divergence"; Shao et al. 2024,
arXiv:2402.03300, eq. 4; `objectives/divergences.py`.

With x = log p(y) - log pi_ref(y) of a response y drawn from the policy, three estimators of
KL(p || pi_ref) are in use:

- k1 = x;
- k2 = x^2 / 2;
- k3 = exp(-x) - 1 + x.

The cell below compares them as *numbers*. In training they are *losses*: the samples are drawn
first, and then each estimator is differentiated with the samples as they are.

**Question.** With p = softmax(z), give the expected gradient in z of each as such a loss: the sum
over bins of p(y) d/dz k(x(y)), where the factor p(y) in front has no gradient.

*Hint.* d/dz log p(y) = e_y - p, and its mean under p is zero. By the chain rule you need the
derivative of each k in x. Two of the three results are in exercise 2.

**What to look at.** Which estimator would you choose for its numbers? Answer the question, and
choose again.
"""

# %%
import jax.numpy as jnp
import numpy as np

from experiments.exercises.checks import check
from objectives import KL_ESTIMATORS

drawn = np.random.default_rng(0)
ref_logp = np.full(20, -np.log(20))
for scale in (0.1, 1.0):
    z = scale * drawn.normal(size=20)
    logp = z - np.log(np.exp(z).sum())
    p = np.exp(logp)
    log_ratio = (logp - ref_logp)[drawn.choice(20, p=p, size=100_000)]
    print(f"KL(p || pi_ref) = {p @ (logp - ref_logp):.4f}")
    for name, estimator in KL_ESTIMATORS.items():
        values = estimator(jnp.asarray(log_ratio))
        print(f"  {name}  mean {values.mean():.4f}  standard deviation {values.std():.4f}")


# %% Answer tags=["answer"]
def expected_gradients(logp, ref_logp):
    """Expected gradients in z of k1, k2 and k3, each of shape [K]."""
    k1 = ...
    k2 = ...
    k3 = ...
    return k1, k2, k3


# %%
verdict = check("e06_kl_estimators", expected_gradients)
