"""Offline learning with and without a negative gradient.

Caption: expected reward while learning from a fixed data set of the reference's own samples. On R1
(left), where the reference is thin, objectives that push bad responses down (IPO, DPO: solid) leave
the region of the data and best-of-N (dashed) does not; on R2 (right) all arrive. Below, what the
claim depends on. Left: it stands at every learning rate if pairs need a difference in reward, and
not without. Right: reward-weighted regression, which never pushes, does as well or better when its
temperature is low enough.

Claim: a negative gradient helps offline when the peak is far, against imitation of the best.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style
from figures.forms import Slide

IMITATION, PUSHES, PUSHES_ALL, DPO = (
    "best of N",
    "IPO, threshold",
    "IPO, all pairs",
    "DPO, threshold",
)
GREEDY = "RWR, temperature 0.05"
CLASSES = {
    IMITATION: "BestOfN",
    PUSHES: "IPO",
    PUSHES_ALL: "IPO",
    DPO: "DPO",
    GREEDY: "RWR",
}
LABELS = {
    IMITATION: "best-of-N",
    PUSHES: "IPO",
    PUSHES_ALL: "IPO, all pairs",
    DPO: "DPO",
    GREEDY: "RWR 0.05",
}
RATE = 1
"""Curves are drawn at the middle learning rate."""

SLIDES = (
    Slide("Offline, where the peak is far, IPO and DPO end above best-of-N", ((0,),)),
    Slide("Where the peak is near, imitation is enough", ((1,),)),
    Slide("IPO's lead needs pairs that differ in reward", ((2,),)),
    Slide("Imitation with a low enough temperature does better still", ((3,),)),
)


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/bandit/negative_gradient.py``."""
    figure, axes = style.canvas(2, 2, height=9.2)
    rate = result.settings["learning_rates"][RATE]
    curves(axes[0, 0], result, "R1", "R1, far: IPO and DPO beat best-of-N")
    curves(axes[0, 1], result, "R2", "R2, near: imitation is enough")
    rates(axes[1, 0], result)
    temperatures(axes[1, 1], result)
    settings = result.settings
    style.footnote(
        figure,
        f"Top: learning rate {rate:g}. Bands: 95% intervals over n = {settings['seeds']} seeds. "
        f"{settings['contexts'][0]} contexts x {settings['responses']} responses, sampled once.\n"
        f"IPO and DPO use pairs whose rewards differ by more than {settings['threshold']:g}, "
        'unless "all pairs".',
        f"Offline; bands: 95% intervals over n = {settings['seeds']} seeds",
    )
    return figure


def look(method: str) -> dict[str, object]:
    """IPO without a threshold is the same objective, drawn lighter."""
    return {"alpha": 0.55, "linewidth": 1.6} if method == PUSHES_ALL else {}


def rewards(result: Result, problem: str, method: str) -> np.ndarray:
    """Expected reward ``[learning rates, seeds, records]``."""
    return result.arrays[problem][0, result.settings["methods"][problem].index(method)]


def curves(ax: Axes, result: Result, problem: str, title: str) -> None:
    """Expected reward against gradient steps."""
    step = result.arrays["step"]
    ends = []
    for method in (m for m in CLASSES if m in result.settings["methods"][problem]):
        objective = CLASSES[method]
        values = rewards(result, problem, method)[RATE]
        x, y = style.curve(ax, step, values, objective, **look(method))
        ends.append((x, y, LABELS[method], style.COLOURS[objective]))
    ax.set(xlim=(0, step[-1]), ylim=(0, 1.03), yticks=[0, 0.5, 1])
    ax.set(xlabel="gradient steps", ylabel="expected reward")
    style.label_ends(ax, ends)
    style.panel_title(ax, title, problem)


def rates(ax: Axes, result: Result) -> None:
    """Final reward on R1 at each learning rate."""
    x = np.array(result.settings["learning_rates"])
    ends = []
    for method, objective in CLASSES.items():
        values = rewards(result, "R1", method)[..., -1].T
        end = style.curve(ax, x, values, objective, marker="o", **look(method))
        ends.append((*end, LABELS[method], style.COLOURS[objective]))
    ax.set(xscale="log", xlim=(x[0] / 1.15, x[-1] * 1.15), ylim=(0, 1.03), yticks=[0, 0.5, 1])
    ax.set_xticks(x, [f"{rate:g}" for rate in x])
    ax.minorticks_off()
    ax.set(xlabel="learning rate", ylabel="final reward on R1")
    style.label_ends(ax, ends)
    style.panel_title(ax, "The threshold on pairs matters", "R1, by learning rate")


def temperatures(ax: Axes, result: Result) -> None:
    """Final reward on R1 of RWR at each temperature, every method at its own best rate."""
    x = np.array(result.settings["temperatures"])
    names = [f"RWR, temperature {beta:g}" for beta in x]
    values = np.stack([best(rewards(result, "R1", name)) for name in names], axis=1)
    ends = []
    for method in (PUSHES, IMITATION):
        flat = np.repeat(best(rewards(result, "R1", method))[:, None], len(x), axis=1)
        objective = CLASSES[method]
        end = style.curve(ax, x, flat, objective, linewidth=1.6)
        ends.append((*end, LABELS[method], style.COLOURS[objective]))
    end = style.curve(ax, x, values, "RWR", marker="o")
    ends.append((*end, "RWR", style.COLOURS["RWR"]))
    ax.set(xscale="log", xlim=(x[0] / 1.2, x[-1] * 1.2), ylim=(0, 1.03), yticks=[0, 0.5, 1])
    ax.set_xticks(x, [f"{beta:g}" for beta in x])
    ax.minorticks_off()
    ax.set(xlabel="temperature of the weights exp(r / temperature)", ylabel="tuned reward on R1")
    style.label_ends(ax, ends)
    style.panel_title(ax, "So does imitation's temperature", "R1, by temperature")


def best(values: np.ndarray) -> np.ndarray:
    """Each seed's final reward at the learning rate that is best over the other seeds."""
    final = values[..., -1]
    others = final.sum(axis=1, keepdims=True) - final
    return np.take_along_axis(final, others.argmax(axis=0)[None], axis=0)[0]
