"""How much reward each method buys per nat of KL to the reference, under the exact envelope.

Caption: each method's path through (KL, expected reward) while it learns, mean over seeds; a dot
is where it ends. The black line is pi*, proportional to pi_ref exp(r / beta), over all beta: no
policy can lie above it. Above, learning on-policy; below, from a fixed data set. Left, R1, whose
peak is far from the reference; right, R2, whose peak is near. Crosses: REINFORCE with a KL penalty.

Claim: on-policy runs end on the envelope, offline runs on R1 far below it; a KL penalty decides
where on the envelope to stop.
"""

from typing import Any

import numpy as np
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style
from figures.forms import Slide

METHODS = {
    "policy": ("best-of-N", "RWR", "DPO", "IPO", "REINFORCE", "PPO"),
    "dataset": ("best-of-N", "RWR", "DPO, threshold", "IPO, threshold"),
}
SOURCES = (("policy", "on-policy"), ("dataset", "offline"))
PENALTY = "REINFORCE"
MOTION = "On-policy every method climbs towards pi*; from a fixed data set each stops below it"
FRAMES = 48
TOP = 1.2

SLIDES = (
    Slide("No policy earns more at its KL than pi*; on-policy runs end near it", ((0, 1),)),
    Slide("From a fixed data set runs end below pi*, far below where the peak is far", ((2, 3),)),
)


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/bandit/frontier.py``."""
    settings = result.settings
    figure, axes = style.canvas(2, 2, height=9.6, sharey=True)
    for row, (source, name) in enumerate(SOURCES):
        for column, (problem, peak) in enumerate((("R1", "far peak"), ("R2", "near peak"))):
            ax = axes[row, column]
            envelope(ax, result, problem)
            paths(ax, result, problem, source)
            ax.set(xlabel="KL(policy || reference), nats" if row == 1 else "")
            style.panel_title(ax, f"{name.capitalize()}, {peak} ({problem})")
        axes[row, 0].set_ylabel("expected reward")
    penalties = " and ".join(f"{beta:g}" for beta in settings["marked"])
    style.footnote(
        figure,
        f"Paths: {settings['steps']} gradient steps at learning rate {settings['matched']:g}, mean "
        f"over n = {settings['seeds']} seeds. DPO and IPO: all pairs on-policy, as in the authors' "
        "scripts,\npairs that differ by 0.2 in reward offline. "
        f"Diamonds: pi* at beta = {penalties}. Crosses: {PENALTY} with a k2 penalty of the same "
        "beta ends there.",
        f"Black: pi*, over all beta; mean paths of n = {settings['seeds']} seeds",
    )
    return figure


def animate(result: Result) -> FuncAnimation:
    """Draw the same paths on R1 as they are walked, one frame after so many gradient steps."""
    figure, axes = style.canvas(1, 2, height=6.0, sharey=True)
    walkers = []
    for ax, (source, name) in zip(axes[0], SOURCES, strict=True):
        envelope(ax, result, "R1")
        paths(ax, result, "R1", source)
        walkers += [(line, *line.get_data()) for line in ax.lines if line.get_zorder() in (6, 7, 8)]
        ax.set(xlabel="KL(policy || reference), nats")
        style.panel_title(ax, f"{name.capitalize()}, far peak (R1)")
    axes[0, 0].set_ylabel("expected reward")
    clock = axes[0, 1].text(0.97, 0.04, "", transform=axes[0, 1].transAxes, ha="right")
    steps = result.settings["steps"]

    def show(frame: int) -> list[Any]:
        share = frame / (FRAMES - 1)
        for line, x, y in walkers:
            line.set_visible(len(x) > 1 or share == 1)
            if len(x) > 1:
                whole = share * (len(x) - 1)
                at = np.append(np.arange(int(whole) + 1), whole)
                line.set_data(*(np.interp(at, np.arange(len(v)), v) for v in (x, y)))
        clock.set_text(f"step {share * steps:.0f}")
        return []

    # The last frame stays for a while before the loop starts over.
    return FuncAnimation(figure, show, frames=[*range(FRAMES), *[FRAMES - 1] * 8], blit=False)


def envelope(ax: Axes, result: Result, problem: str) -> None:
    """Pi* over all beta, with the part above it greyed out and a few betas marked."""
    kl, reward = (result.arrays[f"{problem}: envelope {name}"] for name in ("kl", "reward"))
    right = 1.05 * float(kl[-1])
    kl, reward = np.append(kl, right), np.append(reward, reward[-1])
    ax.fill_between(kl, reward, TOP, color=style.REFERENCE, alpha=0.18, linewidth=0)
    ax.plot(kl, reward, color=style.OPTIMUM, linewidth=3.2, zorder=4)
    ax.text(0.03, 0.955, "no policy is here", transform=ax.transAxes, fontsize=13, va="center")
    best, where = result.arrays[f"{problem}: marked"]
    ax.plot(where, best, "D", color=style.OPTIMUM, markersize=9, zorder=5)
    for beta, x, y in zip(result.settings["marked"], where, best, strict=True):
        place: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "zorder": 9}
        ax.annotate(f"{beta:g}", (x, y), (-9, 5), fontsize=13, **place)
    ax.set(xlim=(0, right), ylim=(0, TOP), yticks=[0, 0.5, 1])


def paths(ax: Axes, result: Result, problem: str, source: str) -> None:
    """The path of every method at its standard strength, and where penalised runs end."""
    settings, ends = result.settings, []
    for one, kl, reward in zip(
        settings["runs"], result.arrays["kl"], result.arrays["reward"], strict=True
    ):
        if (one["source"], one["problem"]) != (source, problem):
            continue
        if one["learning_rate"] != settings["matched"]:
            continue
        colour = style.COLOURS[one["objective"]]
        if one["method"] in METHODS[source] and one["beta"] == settings["standard"][one["method"]]:
            ax.plot(kl, reward, color=colour, linestyle=style.line_of(one["objective"]), zorder=6)
            face = "white" if source == "dataset" else colour
            look: dict[str, Any] = {"markersize": 10, "markerfacecolor": face, "zorder": 7}
            ax.plot(kl[-1], reward[-1], "o", color=colour, markeredgewidth=2.2, **look)
            name = one["method"].removesuffix(", threshold")
            ends.append((ax.get_xlim()[1], float(reward[-1]), name, colour))
        elif one["method"] == PENALTY:
            ax.plot(kl[-1], reward[-1], "X", color=colour, markersize=11, zorder=8)
    style.label_ends(ax, ends, gap=0.08)
