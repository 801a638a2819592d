"""Each method at its own best learning rate, chosen without peeking.

A comparison at one rate says as much about the rate as about the methods: one may need ten times
the steps of another. So every method runs at each of a few rates, and is judged at its best. The
best for seed s is chosen by the other seeds, so that luck with one seed is not counted as skill.
"""

import numpy as np
from jaxtyping import Float64


def best_of(candidates: Float64[np.ndarray, "candidates seeds"]) -> Float64[np.ndarray, " seeds"]:
    """Each seed's score with the candidate that is best on average over the other seeds."""
    others = candidates.sum(axis=1, keepdims=True) - candidates
    return np.take_along_axis(candidates, others.argmax(axis=0)[None], axis=0)[0]


def favourite(scores: Float64[np.ndarray, "candidates seeds"]) -> int:
    """The candidate with the best mean over all seeds: what a table or a figure names."""
    return int(scores.mean(axis=1).argmax())
