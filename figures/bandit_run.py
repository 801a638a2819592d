"""One run, before and after: where the mass was, where it went, and what that bought.

Left: the policy on the way and at the end over the bins, with the reward behind. Right:
expected reward and divergence from the reference as training goes.
"""

import numpy as np
from matplotlib.figure import Figure

from figures import style


def draw(
    title: str,
    objective: str,
    trace: dict[str, np.ndarray],
    reference: np.ndarray,
    reward: np.ndarray,
    optimum: tuple[np.ndarray, float] | None,
) -> Figure:
    """Draw a run of ``modeseek bandit``.

    Args:
        title: above the left panel.
        objective: class name; decides the colour.
        trace: arrays [S, R, ...] of a sweep over seeds.
        reference: probability of each bin, [K].
        reward: of each bin, [K].
        optimum: probabilities of pi* [K] and its beta, where it has a closed form.
    """
    figure, axes = style.canvas(1, 3, height=5.4, width=15, width_ratios=(2.2, 1, 1))
    ax, reward_ax, kl_ax = axes[0]
    bins = np.arange(len(reward))
    probability = trace["probability"].mean(axis=0)
    colour = style.COLOURS.get(objective, style.INK)
    top = 1.12 * max(probability[-1].max(), reference.max())
    ax.fill_between(bins, reward * top, color=style.REWARD, alpha=0.35, linewidth=0)
    ax.step(bins, reference, where="mid", color=style.REFERENCE, linewidth=2.2)
    halfway = len(probability) // 4
    ax.step(bins, probability[halfway], where="mid", color=colour, alpha=0.45, linewidth=2)
    ax.step(bins, probability[-1], where="mid", color=colour)
    words = [
        ("reward (scaled)", "#A77B00"),
        ("reference", "#6B7075"),
        (f"policy after {trace['step'][0, halfway]} steps", colour),
        (f"policy after {trace['step'][0, -1]} steps", colour),
    ]
    if optimum is not None:
        ax.plot(bins, np.minimum(optimum[0], top), ":", color=style.OPTIMUM, linewidth=1.8)
        words.append((f"pi* at beta = {optimum[1]:g}", style.OPTIMUM))
    left = reward.argmax() < len(reward) / 2
    for row, (word, ink) in enumerate(words):
        ax.text(
            0.98 if left else 0.14,
            0.97 - 0.075 * row,
            word,
            transform=ax.transAxes,
            color=ink,
            ha="right" if left else "left",
            va="top",
            fontsize=13,
            fontweight="bold",
            alpha=0.6 if row == 2 else 1,
        )
    ax.set(xlabel="bin", ylabel="probability", xlim=(-1, len(reward)), ylim=(0, top))
    style.panel_title(ax, title)
    step = trace["step"][0]
    style.curve(reward_ax, step, trace["reward"], objective)
    reward_ax.set(xlabel="gradient step", ylabel="expected reward", ylim=(0, 1.02))
    style.panel_title(reward_ax, "What it earned")
    style.curve(kl_ax, step, trace["reverse_kl"], objective)
    kl_ax.set(xlabel="gradient step", ylabel="KL(policy || reference), nats")
    kl_ax.set_ylim(bottom=0)
    style.panel_title(kl_ax, "What it cost")
    style.footnote(figure, f"mean over n = {len(trace['step'])} seeds; bands are 95% intervals")
    return figure
