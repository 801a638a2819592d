"""The world: where the reference is thick, where the rewards are, and what ten samples show.

Caption: the reference policy (grey) over 100 bins with the two rewards (yellow). R1 pays where the
reference is thin, R2 where it is thick. Below, the optima pi*, proportional to
pi_ref exp(r / beta): for R1 mass must cross the world, for R2 it only gathers. Last, the reward of
the best of N samples of the reference: ten nearly reach R2's optimum and seldom find R1's.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style
from figures.forms import Slide

R1 = {"color": style.INK, "linestyle": "-"}
R2 = {"color": "#7A6A2F", "linestyle": (0, (4, 1.2))}
LOOKS = {"R1": R1, "R2": R2}
MARKS = {"R1": "o", "R2": "s"}
BETA, SOFT = 0.1, 0.5
DATA = 10

SLIDES = (
    Slide("R1 pays where the reference is thin, R2 where it is thick", ((0, 1),)),
    Slide("R1's optimum lies across the world from the mass; R2's only gathers it", ((2,),)),
    Slide("Ten samples nearly reach R2's optimum and seldom find R1's", ((3,),)),
)


def draw(result: Result) -> Figure:
    """Draw the world of ``experiments/bandit/environment.py``."""
    figure, axes = style.canvas(2, 2, height=8.4)
    world(axes[0, 0], result, "R1", "R1 pays where the reference is thin")
    world(axes[0, 1], result, "R2", "R2 pays where it is thick")
    optima(axes[1, 0], result)
    best_of(axes[1, 1], result)
    groups, seeds = result.settings["groups"], result.settings["seeds"]
    style.footnote(
        figure,
        f"Lines and bars are exact. Dots: the mean over {groups} sampled groups of {DATA}, "
        f"one dot per seed, n = {seeds} seeds.",
        f"Exact, but for the dots: n = {seeds} seeds. π*: β = {BETA:g}, thin {SOFT:g}",
    )
    return figure


def reference(ax: Axes, result: Result) -> None:
    """The reference as grey bars."""
    ax.bar(result.arrays["bins"], result.arrays["reference"], width=1.0, color=style.REFERENCE)
    ax.set(xlim=(-1, 100), xlabel="bin", ylabel="probability")


def world(ax: Axes, result: Result, name: str, title: str) -> None:
    """Reference and reward, each on a scale of its own."""
    reference(ax, result)
    ax.set(ylim=(0, 0.088), yticks=[0, 0.04, 0.08])
    bins, reward = result.arrays["bins"], result.arrays[f"{name}: reward"]
    above = ax.twinx()
    above.fill_between(bins, reward, color=style.REWARD, alpha=0.45, linewidth=0)
    above.plot(bins, reward, color="#C99A1A", linewidth=2.2)
    above.set(ylim=(0, 1.1), yticks=[0, 0.5, 1], ylabel="reward")
    above.spines["right"].set_visible(True)
    style.panel_title(ax, title, name)
    if name == "R1":
        ax.text(25, 0.028, "reference", color="#5F6368", fontsize=13, fontweight="bold")
    peak = int(np.argmax(reward))
    mass = result.settings["mass near the peak"][name]
    side, x = ("right", peak - 14) if peak > 50 else ("left", peak + 14)
    above.text(x, 1.0, name, color="#8A6A0B", ha=side, va="top", fontweight="bold", fontsize=17)
    above.text(
        x,
        0.87,
        f"{100 * mass:.0f}% of the mass\nis within 10 bins\nof the peak",
        ha=side,
        va="top",
        fontsize=14,
    )


def optima(ax: Axes, result: Result) -> None:
    """The optimum of each reward over the reference."""
    reference(ax, result)
    bins, betas = result.arrays["bins"], result.arrays["betas"]
    thick, thin = (int(np.argmin(np.abs(betas - beta))) for beta in (BETA, SOFT))
    top = 0.0
    for name, look in LOOKS.items():
        optimum = result.arrays[f"{name}: optima"][thick]
        ax.plot(bins, optimum, **look)
        ax.plot(bins, result.arrays[f"{name}: optima"][thin], **(look | {"linewidth": 1.2}))
        k, top = int(np.argmax(optimum)), max(top, float(optimum.max()))
        ax.text(
            k + 5, optimum[k], f"π* for {name}", va="top", fontweight="bold", color=look["color"]
        )
    ax.set(ylim=(0, 1.08 * top), yticks=[0, 0.08, 0.16])
    style.panel_title(ax, f"The optima, β = {BETA:g} (thin: {SOFT:g})", "Optima")


def best_of(ax: Axes, result: Result) -> None:
    """Expected reward of the best of N samples."""
    counts = result.arrays["counts"]
    ax.axvline(DATA, color=style.REFERENCE, linewidth=1.2, linestyle=(0, (1, 2)))
    for name, look in LOOKS.items():
        curve = result.arrays[f"{name}: best of"]
        ax.plot(counts, curve, **look)
        sampled = result.arrays[f"{name}: sampled best of {DATA}"]
        ax.plot(
            np.full(sampled.size, DATA),
            sampled,
            MARKS[name],
            color=look["color"],
            alpha=0.35,
            zorder=3,
        )
        k = int(np.argmin(np.abs(counts - DATA)))
        below = name == "R1" or curve[k] > 0.8
        ax.annotate(
            f"{name}: {curve[k]:.2f}",
            (DATA, curve[k]),
            xytext=(14, -4),
            textcoords="offset points",
            va="top" if below else "bottom",
            fontweight="bold",
            color=look["color"],
        )
    ax.set(xscale="log", xlim=(1, 1000), ylim=(0, 1.05), yticks=[0, 0.5, 1])
    ax.set(xticks=[1, 10, 100, 1000], xticklabels=["1", "10", "100", "1,000"])
    ax.set(xlabel="N, samples of the reference", ylabel="best reward seen")
    style.panel_title(ax, "What a data set shows", "Best of N samples")
