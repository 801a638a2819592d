# %% [markdown]
"""# 3. Which direction of the KL takes sides sooner?

**20 minutes.** Reference: Tajwar et al. 2024, arXiv:2404.14367, Theorem 6.5.

Gradient descent moves the logits at v = -d/dz. For the forward KL that is q - p, *mass-covering*:
each bin is pulled by what it lacks. For the reverse KL it is -p (log p - log q - KL),
*mode-seeking*: only mass moves mass.

Take two bins that the policy likes equally, p_1 = p_2 = p, while the target prefers the first,
q_1 > q_2. Their log-ratio log(p_1 / p_2) starts at 0 and grows at the difference of the two
velocities. The paper says that reverse KL is the faster. That is not so for every p.

**Question.** For which p is it? Write the condition, for arrays of any shape.

*Hint.* Write down both differences of velocities. In the second one the KL cancels.

**What to look at.** The picture: plain gradient descent from R1's reference to a target with two
hills. Read off when each direction has moved the far hill. Then change `optimizer` to Adam, which
evens out how fast logits move: what is left of the difference?
"""

# %%
import jax
import jax.numpy as jnp
import optax
from matplotlib import pyplot as plt

from bandit import R1
from bandit.theory import forward_kl_velocity, reverse_kl_velocity
from experiments.exercises.checks import check
from experiments.exercises.pictures import look

optimizer = optax.sgd(0.5)  # or optax.adam(0.05)
target_logp = R1.optimum(0.2)


def path(velocity, steps=2000):
    """Probabilities of all bins after each step of descent."""

    def step(carry, _):
        z, state = carry
        updates, state = optimizer.update(-velocity(jax.nn.log_softmax(z), target_logp), state)
        return (z + updates, state), jax.nn.softmax(z + updates)

    return jax.lax.scan(step, (R1.ref_logp, optimizer.init(R1.ref_logp)), length=steps)[1]


figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True, layout="constrained")
for axis, velocity in zip(axes, (forward_kl_velocity, reverse_kl_velocity), strict=True):
    walked = path(velocity)
    axis.plot(jnp.exp(target_logp), color="black", lw=1, label="target")
    for step in (20, 200, 1999):
        axis.plot(walked[step], label=f"after {step + 1} steps")
    axis.set(title=velocity.__name__.replace("_velocity", ""), xlabel="bin", ylim=(0, 0.12))
axes[0].set(ylabel="probability")
axes[1].legend()
look(figure, "e03_cover_or_seek")


# %% Answer tags=["answer"]
def reverse_is_faster(p, q_1, q_2):
    """Whether reverse KL parts two bins of equal p faster than forward KL does, q_1 > q_2."""
    return ...


# %%
verdict = check("e03_cover_or_seek", reverse_is_faster)
