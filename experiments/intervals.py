"""Means over seeds with their uncertainty: what turns curves into verdicts.

Every interval is a 95% Student interval over seeds. Differences are paired: seed s has the same
starting policy and contexts in every setting, so what they share cancels.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """A mean over seeds and the half-width of its 95% interval."""

    mean: float
    half_width: float

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half_width

    def __str__(self) -> str:
        """As in ``0.71 ± 0.03``."""
        return f"{self.mean:.2f} ± {self.half_width:.2f}"


def half_width(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Half-width of the 95% Student interval of the mean along the seeds' axis."""
    count = values.shape[axis]
    spread = np.std(values, axis=axis, ddof=1, dtype=np.float64)
    return stats.t.ppf(0.975, count - 1) * spread / np.sqrt(count)


def interval(values: np.ndarray) -> Interval:
    """Mean and half-width of one number per seed."""
    values = np.asarray(values, np.float64)
    return Interval(float(np.mean(values)), float(half_width(values)))


def difference(a: np.ndarray, b: np.ndarray) -> Interval:
    """Mean and half-width of a - b, paired by seed."""
    return interval(np.asarray(a, np.float64) - np.asarray(b, np.float64))
