"""Random batches that hold every awkward group there is, and the one way tests run an objective.

Batches are plain float64 numpy, so that an oracle can read them with loops. What is not scored is
filled with garbage, NaN unless a test asks for something else. Every test uses one shape, because
JAX compiles each operation once per shape.

Key to the axes: B groups, N responses per group, T token positions.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from objectives import Objective, Responses, Terms

B, N, T = 7, 4, 3


class Batch(NamedTuple):
    """What an objective sees, in numpy."""

    logp: np.ndarray
    mask: np.ndarray
    reward: np.ndarray
    ref_logp: np.ndarray
    old_logp: np.ndarray
    advantage: np.ndarray | None
    valid: np.ndarray

    @property
    def exists(self) -> np.ndarray:
        return self.valid & self.mask.any(axis=-1)

    @property
    def scored(self) -> np.ndarray:
        return self.mask & self.valid[..., None]


Garbage = float | tuple[float, ...]


def draw(seed: int, advantage: str | None = "token", garbage: Garbage = np.nan) -> Batch:
    """A random batch: ragged masks with gaps, ties, and groups that are hardly there.

    Args:
        seed: the batch depends on nothing else; odd seeds lie above the reference, even ones below.
        advantage: ``"token"`` [B, N, T], ``"response"`` [B, N, 1], or None.
        garbage: stands wherever nothing is scored; several numbers take turns.
    """
    rng = np.random.default_rng(seed)
    mask = rng.random((B, N, T)) < 0.75
    valid = rng.random((B, N)) < 0.9
    logp = -rng.exponential(1.0, (B, N, T))
    ref_logp = np.minimum(0, logp + rng.normal(0, 0.5, (B, N, T)) + (-0.4 if seed % 2 else 0.4))
    old_logp = np.minimum(0, logp + rng.normal(0, 0.4, (B, N, T)))
    reward = rng.normal(0.5, 0.6, (B, N))

    # 0: nearly certain responses, whose complement has no probability left.
    # Far better than the other groups, so that a group's mean is not the batch's.
    mask[0], valid[0] = True, True
    logp[0, :2] *= 1e-8
    reward[0] += 1.5
    # 1: ties among the best, among the worst, and a difference of exactly 1/2.
    mask[1, :, 0], valid[1] = True, True
    reward[1] = rng.permutation([0.0, 1.0, 1.0, 0.5]) if seed % 3 else [1.0, 0.0, 1.0, 0.0]
    # 2: nothing to prefer; 0.7 is not exact in binary, so its mean is not exactly it.
    mask[2, :, 1], valid[2], reward[2] = True, True, 0.7
    # 3: one response. 4: none.
    mask[3, 1], valid[3], valid[4] = True, [False, True, False, False], False
    # 5: the best is invalid and the worst is empty.
    reward[5], mask[5], valid[5] = [9.0, 0.3, 0.8, -9.0], True, [False, True, True, True]
    mask[5, 3] = False
    # 6: a labelled pair, barely moved since it was drawn.
    reward[6], mask[6], valid[6] = [0.0, 1.0, 5.0, 5.0], True, [True, True, False, False]
    old_logp[6] = logp[6] + [[1e-4], [-2e-4], [0.0], [0.0]]

    given = None
    if advantage == "token":
        given = rng.normal(0, 1, (B, N, T))
    if advantage == "response":
        given = rng.normal(0, 1, (B, N, 1))
    batch = Batch(logp, mask, reward, ref_logp, old_logp, given, valid)
    return litter(batch, garbage)


def litter(batch: Batch, garbage: Garbage) -> Batch:
    """Put garbage wherever nothing is scored, in every field."""
    exists, scored = batch.exists, batch.scored

    def over(x: np.ndarray | None) -> np.ndarray | None:
        if x is None:
            return None
        there = scored if x.shape == scored.shape else exists[..., None]
        return np.where(there, x, np.resize(garbage, x.shape))

    return batch._replace(
        logp=over(batch.logp),
        ref_logp=over(batch.ref_logp),
        old_logp=over(batch.old_logp),
        advantage=over(batch.advantage),
        reward=np.where(exists, batch.reward, np.resize(garbage, exists.shape)),
    )


def on_device(batch: Batch, dtype: Any = None) -> tuple[jax.Array, Responses]:
    """The batch as JAX arrays: the policy's log-probabilities, and everything that is constant."""

    def floats(x: np.ndarray) -> jax.Array:
        return jnp.asarray(x, dtype)

    responses = Responses(
        mask=jnp.asarray(batch.mask),
        reward=floats(batch.reward),
        ref_logp=floats(batch.ref_logp),
        old_logp=floats(batch.old_logp),
        advantage=None if batch.advantage is None else floats(batch.advantage),
        valid=jnp.asarray(batch.valid),
    )
    return floats(batch.logp), responses


def loss_and_gradient(
    objective: Objective, logp: jax.Array, responses: Responses
) -> tuple[Terms, jax.Array, jax.Array]:
    """The terms, the loss, and its gradient in the policy's log-probabilities."""

    def loss(logp: jax.Array) -> tuple[jax.Array, Terms]:
        terms = objective(logp, responses)
        return terms.mean(), terms

    (value, terms), gradient = jax.value_and_grad(loss, has_aux=True)(logp)
    return terms, value, gradient
