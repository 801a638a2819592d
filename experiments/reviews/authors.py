"""What the authors measured: win rates of GPT-2 large on IMDB, judged by GPT-4 or a classifier.

Facts, for comparison; nothing here was computed by this project.

Source: Muldrew et al. 2024, arXiv:2402.08114, from the tables and notebooks of their published
    code, branch `sub` at 998f5d5.
"""

import numpy as np

LABELS = (128, 256, 512, 768)
ROUNDS = tuple(many // 128 for many in LABELS)
"""After which these numbers of labels were there."""

# Mean and standard error over 9 seeds (entropy 6), 1,024 prompts each, against the initial model.
WIN_RATES = {
    "random": ((0.6705, 0.0115), (0.7605, 0.0089), (0.8457, 0.0049), (0.8822, 0.0042)),
    "entropy": ((0.6818, 0.0114), (0.7376, 0.0093), (0.8408, 0.0093), (0.8905, 0.0043)),
    "certainty": ((0.6758, 0.0031), (0.8162, 0.0048), (0.8748, 0.0072), (0.9010, 0.0035)),
    "hybrid": ((0.6810, 0.0039), (0.8122, 0.0075), (0.8941, 0.0063), (0.9155, 0.0054)),
}

SEEDS = {"random": 9, "entropy": 6, "certainty": 9, "hybrid": 9}

AGREEMENT = (0.70, 0.89)
"""Share of the pairs chosen by certainty, from the second round on, that the policy had right."""

# Win rate after every tenth of 200 phases of 64 fresh labels and one gradient step each, judged by
# a classifier of sentiment; mean of 3 seeds.
ONLINE = {
    "certainty": (
        *(0.503, 0.574, 0.675, 0.736, 0.807, 0.863, 0.894, 0.928, 0.952, 0.962),
        *(0.968, 0.973, 0.980, 0.983, 0.983, 0.982, 0.987, 0.987, 0.993, 0.989),
    ),
    "random": (
        *(0.517, 0.538, 0.563, 0.589, 0.629, 0.655, 0.688, 0.724, 0.751, 0.769),
        *(0.788, 0.804, 0.835, 0.858, 0.888, 0.888, 0.905, 0.920, 0.932, 0.938),
    ),
}

# Means over 9 seeds of 512 prompts, with adapters of rank 8, after 256, 512 and 768 labels.
LORA = {"certainty": (0.838, 0.877, 0.904), "random": (0.862, 0.895, 0.906)}

# Going on from round to round: 128, 256, ... 768 labels, 5 seeds of 512 prompts.
GOING_ON = {
    "certainty": (0.688, 0.840, 0.897, 0.919, 0.936, 0.947),
    "random": (0.675, 0.780, 0.845, 0.898, 0.914, 0.926),
}


def table() -> tuple[np.ndarray, np.ndarray]:
    """Means and standard errors of ``WIN_RATES``: ``[functions, labels]`` each."""
    values = np.array(list(WIN_RATES.values()))
    return values[..., 0], values[..., 1]
