"""How often the same answers may be used on text: it depends on what is scarce.

Caption: gold reward under Min Length when each round of answers is used T times, from T = 1
(darkest) to T = 8 (palest). Above, against answers drawn: each further use is worth having. Below,
the same runs against gradient steps.

Claim: reuse saves answers, and what it costs in gradient steps differs between objectives.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style
from figures.forms import Slide

PALEST = 0.5
LIMITS = {"ylim": (-0.05, 1.1), "yticks": [0, 0.5, 1]}

SLIDES = (
    Slide("Where answers are scarce, using them again pays", ((0, 1, 2),)),
    Slide("Per gradient step PPO learns less the more often it reuses an answer", ((3, 4, 5),)),
)


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/llm/reuse.py``."""
    settings = result.settings
    passes, step, gain = (result.arrays[name] for name in ("T", "step", "gain"))
    per_round = settings["prompts"] * settings["responses"]
    columns = list(zip(settings["methods"], settings["objectives"], strict=True))
    figure, axes = style.canvas(2, len(columns), height=8.0, sharey=True)
    for column, (title, objective) in enumerate(columns):
        above, below = axes[:, column]
        per_sample(above, passes, step, gain[column], objective, per_round)
        style.panel_title(above, f"{title}, per answer", title)
        per_step(below, passes, step, gain[column], objective)
        style.panel_title(below, "... and per gradient step", title)
    for row in range(2):
        axes[row, 0].set_ylabel("gold reward, share of the gain")
    style.footnote(
        figure,
        f"T = gradient steps on each round of {settings['prompts']} prompts x "
        f"{settings['responses']} answers. Min Length, trained on the proxy, judged by gold.\n"
        f"Learning rate {settings['learning_rate']:g}. Bands: 95% intervals over "
        f"n = {settings['seeds']} seeds.",
        "T: gradient steps on each round of answers; bands: 95% intervals, "
        f"n = {settings['seeds']} seeds",
    )
    return figure


def per_sample(
    ax: Axes,
    passes: np.ndarray,
    step: np.ndarray,
    gain: np.ndarray,
    objective: str,
    per_round: int,
) -> None:
    """Gain after each round against answers drawn, [T, seeds, records]; named where it ends."""
    colours = style.shades(objective, len(passes), PALEST)
    for number, (values, T, colour) in enumerate(zip(gain, passes, colours, strict=True)):
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
    ax.set(xscale="log", xlabel="answers drawn", **LIMITS)


def per_step(
    ax: Axes, passes: np.ndarray, step: np.ndarray, gain: np.ndarray, objective: str
) -> None:
    """Gain against gradient steps, [T, seeds, records]."""
    ends = []
    colours = style.shades(objective, len(passes), PALEST)
    for number, (values, T, colour) in enumerate(zip(gain, passes, colours, strict=True)):
        x, y = style.curve(ax, step, values, objective, color=colour, **style.marked(number))
        ends.append((x, y, f"T = {T}", colour))
    ax.set(xlabel="gradient steps", xlim=(0, step[-1]), **LIMITS)
    style.label_ends(ax, ends, gap=0.085)
