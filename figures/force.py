"""What one objective does to every bin: its push on log-probabilities, and what the softmax leaves.

Caption: bars are the push of the objective on the log-probability of each bin, in expectation over
all groups of two responses that the reference writes; below zero it pushes down. The line is what
becomes of it once probabilities must add up to one: the velocity of the logits, v = w - p sum(w)
for a push w and a policy p. Where an objective only pulls, the line still falls where the policy
has more mass than the pull asks for. On the left the policy is the reference; on the right it has
moved to where the reward is, and the responses are still the old ones. The largest push of the two
panels is 1, so sizes compare within a picture and not between objectives. Beneath, the policy
(grey), the reference (dotted) and the reward (yellow).
"""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style

TITLES = ("At the reference", "The policy has moved; same data")


@dataclass(frozen=True, kw_only=True)
class Force:
    """What the picture shows of one objective; the first axis is the two moments.

    Attributes:
        objective: name of the class; decides the colour.
        reference: [K] probabilities.
        reward: [K].
        policy: [2, K] probabilities.
        push: [2, K] minus the gradient of the expected loss with respect to log-probabilities
            that are free.
        velocity: [2, K] minus the gradient with respect to the logits.
    """

    objective: str
    reference: np.ndarray
    reward: np.ndarray
    policy: np.ndarray
    push: np.ndarray
    velocity: np.ndarray


def draw(force: Force) -> Figure:
    """Draw the push and the velocity at both moments."""
    figure, axes = style.canvas(2, 2, height=5.8, height_ratios=(2.6, 1), sharex=True, sharey="row")
    scale = np.abs(force.push).max()
    for column, title in enumerate(TITLES):
        above, below = axes[:, column]
        pushes(above, force, column, scale)
        world(below, force, column)
        style.panel_title(above, title)
    axes[0, 0].set_ylabel("push")
    corner = {"transform": axes[0, 0].transAxes, "ha": "right", "va": "top", "fontweight": "bold"}
    axes[0, 0].text(1, 1, "bars: on log π of a bin", color=colour_of(force), **corner)
    axes[0, 0].text(1, 0.91, "line: on its logit", color=style.INK, **corner)
    return figure


def colour_of(force: Force) -> str:
    """The objective's, in every figure."""
    return style.COLOURS[force.objective]


def pushes(ax: Axes, force: Force, column: int, scale: float) -> None:
    """Bars of the push and the line of what the softmax leaves of it, in units of ``scale``."""
    bins = np.arange(force.reference.size)
    edges = np.arange(bins.size + 1) - 0.5
    ax.axhline(0, color=style.REFERENCE, linewidth=1)
    ax.stairs(force.push[column] / scale, edges, fill=True, color=colour_of(force))
    ax.plot(bins, force.velocity[column] / scale, color=style.INK, linewidth=2)
    ax.set(ylim=(-1.15, 1.3), yticks=[-1, 0, 1], yticklabels=["down", "0", "up"])


def world(ax: Axes, force: Force, column: int) -> None:
    """The policy over the reference, and the reward on a scale of its own."""
    bins, policy, highest = np.arange(force.reference.size), force.policy, force.policy.max()
    reward = 1.1 * highest * force.reward / force.reward.max()
    ax.fill_between(bins, reward, color=style.REWARD, alpha=0.45, linewidth=0)
    ax.fill_between(bins, policy[column], color=style.REFERENCE, alpha=0.55, linewidth=0)
    ax.plot(bins, force.reference, ":", color=style.INK, linewidth=1.6)
    ax.set(xlim=(-1, bins.size), ylim=(0, 1.15 * highest), yticks=[], xlabel="bin")
    ax.spines["left"].set_visible(False)
    if column == 0:
        ax.text(4, 0.9 * highest, "policy = reference", color="#5F6368", fontsize=13)
        peak = int(np.argmax(force.reward))
        ax.text(peak + 16, 0.75 * highest, "reward", color="#8A6D1B", fontsize=13)
    else:
        ax.text(4, 0.9 * highest, "policy; dotted: reference", color="#5F6368", fontsize=13)
