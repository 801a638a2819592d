"""Do counts look like draws from a distribution?"""

import numpy as np
import scipy.stats


def p_value(counts: np.ndarray, probability: np.ndarray) -> float:
    """Of the chi-square test; outcomes expected fewer than 5 times are pooled."""
    expected = counts.sum() * np.asarray(probability, np.float64) / np.sum(probability)
    often = expected >= 5
    if often.all():
        return float(scipy.stats.chisquare(counts, expected).pvalue)
    pooled = [np.append(x[often], x[~often].sum()) for x in (counts, expected)]
    return float(scipy.stats.chisquare(*pooled).pvalue)
