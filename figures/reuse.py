"""How often the same samples may be used: it depends on what is scarce.

Caption: expected reward on R1 when each round of samples is used T times, from T = 1 (darkest) to
the largest T (palest). Above, against samples drawn: each further use is worth having, so where
labels are scarce, reuse. Below, the same runs against gradient steps: a few uses change nothing,
very many slow learning down, and PPO stalls until the next round, because its clip lets one batch
move the policy only so far.

Claim: reuse saves samples, not gradient steps.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style

TITLES = {"BestOfN": "Best-of-N", "PPO": "PPO", "REINFORCE": "REINFORCE"}
PALEST = 0.5


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/bandit/reuse.py``: its first world."""
    settings = result.settings
    world, objectives = settings["worlds"][0], settings["objectives"]
    passes, step, reward = (result.arrays[f"{world}: {name}"] for name in ("T", "step", "reward"))
    per_round = settings["prompts"] * settings["responses"]
    figure, axes = style.canvas(2, len(objectives), height=8.0, sharey=True)
    for column, objective in enumerate(objectives):
        above, below = axes[:, column]
        per_sample(above, passes, step, reward[column], objective, per_round)
        style.panel_title(above, f"{TITLES[objective]}, per sample")
        per_step(below, passes, step, reward[column], objective)
        style.panel_title(below, "... and per gradient step")
    for row in range(2):
        axes[row, 0].set_ylabel("expected reward")
    style.footnote(
        figure,
        f"T = gradient steps on each round of {settings['prompts']} prompts x "
        f"{settings['responses']} responses. R1, learning rate {settings['learning_rate']:g}. "
        f"Bands: 95% intervals over n = {settings['seeds']} seeds.",
    )
    return figure


def per_sample(
    ax: Axes,
    passes: np.ndarray,
    step: np.ndarray,
    reward: np.ndarray,
    objective: str,
    per_round: int,
) -> None:
    """Reward after each round against samples drawn, [T, seeds, records]; named where it ends."""
    colours = style.shades(objective, len(passes), PALEST)
    for values, T, colour in zip(reward, passes, colours, strict=True):
        rounds = np.arange(1, step[-1] // T + 1)
        done = np.stack([np.interp(rounds * T, step, one) for one in values])
        few = {"marker": "o"} if len(rounds) < 10 else {}
        x, y = style.curve(ax, per_round * rounds, done, objective, color=colour, **few)
        ax.annotate(
            f"{T}" if passes.min() < T else f"T = {T}",
            (x, y),
            (0, 7),
            textcoords="offset points",
            ha="center" if passes.min() < T else "left",
            color=colour,
            fontsize=13,
            fontweight="bold",
        )
    ax.set(xscale="log", xlabel="samples drawn", ylim=(0, 1.13), yticks=[0, 0.5, 1])


def per_step(
    ax: Axes, passes: np.ndarray, step: np.ndarray, reward: np.ndarray, objective: str
) -> None:
    """Reward against gradient steps, [T, seeds, records]."""
    ends = []
    colours = style.shades(objective, len(passes), PALEST)
    for values, T, colour in zip(reward, passes, colours, strict=True):
        x, y = style.curve(ax, step, values, objective, color=colour)
        ends.append((x, y, f"T = {T}", colour))
    ax.set(xlabel="gradient steps", xlim=(0, step[-1]))
    style.label_ends(ax, ends, gap=0.085)
