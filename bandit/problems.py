"""The paper's didactic world: 100 bins, a reference policy, and a reward that is or is not aligned.

The reference is a squashed Cauchy cut into bins: most of its mass lies near bin 16, with a spike at
each end, and almost none near bin 70. R1 puts the reward's peak at bin 70, where the reference is
thin; R2 at bin 20, where it is thick. That difference is the paper's geometry of preference
learning: how far must mass travel?

Key to the axes: K bins.
"""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from objectives import optimal_policy
from objectives.hyperparameters import Number
from objectives.pytrees import pytree, structure

BINS = 100


def squashed_cauchy(
    bins: int = BINS, location: float | int = -0.7, scale: float | int = 0.4
) -> Float[Array, " K"]:
    """Log-probabilities of tanh(X), X ~ Cauchy(location, scale), in equal bins of [-1, 1].

    P(bin k) = F(atanh(-1 + 2(k+1)/K)) - F(atanh(-1 + 2k/K)) with F the Cauchy distribution
    function.

    Source: the reference of Tajwar et al. 2024, arXiv:2404.14367.

    Differs: the authors use a histogram of 10,000 unseeded draws; these are its exact limits.
    """
    with np.errstate(divide="ignore"):
        edges = np.arctanh(np.linspace(-1, 1, bins + 1))
    below = 0.5 + np.arctan((edges - location) / scale) / np.pi
    return jnp.log(jnp.asarray(np.diff(below)))


def bump(peak: float | int, width: float | int, bins: int = BINS) -> Float[Array, " K"]:
    """Reward exp(-((k - peak) / width)^2) of each bin: 1 at the peak; ``width`` in bins."""
    return jnp.asarray(np.exp(-(((np.arange(bins) - peak) / width) ** 2)), jnp.float32)


@pytree
class Problem:
    """A reference and a reward over K bins, for responses of one or of several tokens.

    Attributes:
        ref_logp: log-probability of each bin under the reference, the same in every context and at
            every position, nats.
        reward: of each bin; a response earns the mean over its tokens.
        tokens: T, tokens per response.
        prompt_earns: whether the prompt is a token too, and is averaged into the reward, as in the
            paper's 10-token world (1 prompt token and 9 responses' tokens).
    """

    ref_logp: Float[Array, " K"]
    reward: Float[Array, " K"]
    tokens: int = structure(default=1)
    prompt_earns: bool = False

    def __post_init__(self) -> None:
        if np.shape(self.ref_logp) != np.shape(self.reward) or np.ndim(self.reward) != 1:
            raise ValueError(
                f"Problem.reward has shape {np.shape(self.reward)} and ref_logp "
                f"{np.shape(self.ref_logp)}; both must be [K], one number per bin."
            )
        if not np.all(np.isfinite(self.reward)):
            bad = np.flatnonzero(~np.isfinite(self.reward)).tolist()
            raise ValueError(
                f"Problem.reward is not finite in bins {bad}; give every bin a number."
            )
        mass = float(np.sum(np.exp(np.asarray(self.ref_logp, np.float64))))
        if not abs(mass - 1) < 1e-4:
            raise ValueError(
                f"Problem.ref_logp sums to probability {mass:.6g}; pass log-probabilities "
                "that are normalised (jax.nn.log_softmax does it)."
            )

    @property
    def bins(self) -> int:
        """K."""
        return self.reward.shape[-1]

    def optimum(self, beta: Number) -> Float[Array, " K"]:
        """Log-probabilities of pi* for one-token responses (see ``objectives.optimal_policy``)."""
        return optimal_policy(self.ref_logp, self.reward, beta)


REFERENCE = squashed_cauchy()
R1 = Problem(ref_logp=REFERENCE, reward=bump(peak=70, width=10))
R2 = Problem(ref_logp=REFERENCE, reward=bump(peak=20, width=10))

PROBLEMS: dict[str, Problem] = {
    "R1": R1,
    "R2": R2,
    "R1-width20": replace(R1, reward=bump(peak=70, width=20)),
    "R1-width30": replace(R1, reward=bump(peak=70, width=30)),
    "R1-tokens": replace(R1, tokens=9, prompt_earns=True),
    "R2-tokens": replace(R2, tokens=9, prompt_earns=True),
}
"""The paper's environments by name; the ``-tokens`` ones are its 10-token version."""
