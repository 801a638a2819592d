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
from figures.forms import Slide

TITLES = {"BestOfN": "Best-of-N", "PPO": "PPO", "REINFORCE": "REINFORCE"}
PALEST = 0.5

SLIDES = (
    Slide("Where samples are scarce, using them again pays", ((0, 1, 2),)),
    Slide("Per gradient step a few uses change nothing, and PPO stalls at many", ((3, 4, 5),)),
)


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
        style.panel_title(above, f"{TITLES[objective]}, per sample", TITLES[objective])
        per_step(below, passes, step, reward[column], objective)
        style.panel_title(below, "... and per gradient step", TITLES[objective])
    for row in range(2):
        axes[row, 0].set_ylabel("expected reward")
    style.footnote(
        figure,
        f"T = gradient steps on each round of {settings['prompts']} prompts x "
        f"{settings['responses']} responses. R1, learning rate {settings['learning_rate']:g}. "
        f"Bands: 95% intervals over n = {settings['seeds']} seeds.",
        "T: gradient steps on each round of samples; R1; bands: 95% intervals, "
        f"n = {settings['seeds']} seeds",
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
    for number, (values, T, colour) in enumerate(zip(reward, passes, colours, strict=True)):
        rounds = np.arange(1, step[-1] // T + 1)
        done = np.stack([np.interp(rounds * T, step, one) for one in values])
        few = {"markevery": 1} if len(rounds) < 10 else {}
        look = style.marked(number) | few
        x, y = style.curve(ax, per_round * rounds, done, objective, color=colour, **look)
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
    for number, (values, T, colour) in enumerate(zip(reward, passes, colours, strict=True)):
        x, y = style.curve(ax, step, values, objective, color=colour, **style.marked(number))
        ends.append((x, y, f"T = {T}", colour))
    ax.set(xlabel="gradient steps", xlim=(0, step[-1]))
    style.label_ends(ax, ends, gap=0.085)
