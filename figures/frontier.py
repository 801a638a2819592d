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
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style

METHODS = {
    "policy": ("best-of-N", "RWR", "DPO", "IPO", "REINFORCE", "PPO"),
    "dataset": ("best-of-N", "RWR", "DPO, threshold", "IPO, threshold"),
}
PENALTY = "REINFORCE"


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/bandit/frontier.py``."""
    settings = result.settings
    figure, axes = style.canvas(2, 2, height=9.6, sharey=True)
    rows = (("policy", "on-policy"), ("dataset", "offline"))
    for row, (source, name) in enumerate(rows):
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
    )
    return figure


def envelope(ax: Axes, result: Result, problem: str) -> None:
    """Pi* over all beta, with the part above it greyed out and a few betas marked."""
    kl, reward = (result.arrays[f"{problem}: envelope {name}"] for name in ("kl", "reward"))
    right = 1.05 * float(kl[-1])
    kl, reward = np.append(kl, right), np.append(reward, reward[-1])
    ax.fill_between(kl, reward, 1.12, color=style.REFERENCE, alpha=0.18, linewidth=0)
    ax.plot(kl, reward, color=style.OPTIMUM, linewidth=3.2, zorder=4)
    ax.text(0.03, 0.94, "no policy is here", transform=ax.transAxes, fontsize=13, va="center")
    best, where = result.arrays[f"{problem}: marked"]
    ax.plot(where, best, "D", color=style.OPTIMUM, markersize=9, zorder=5)
    for beta, x, y in zip(result.settings["marked"], where, best, strict=True):
        place: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "zorder": 9}
        ax.annotate(f"{beta:g}", (x, y), (-9, 5), fontsize=13, **place)
    ax.set(xlim=(0, right), ylim=(0, 1.12), yticks=[0, 0.5, 1])


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
