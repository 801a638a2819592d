"""How much reward each method buys per nat of KL on text, and how much of it is real.

Caption: above, each method's path through (KL, gold reward) while it learns, mean over seeds,
filled marks where on-policy runs end and open ones where offline runs end. Below, one on-policy run
seen by two judges: the proxy it is trained on (thin) and gold (thick), for a proxy that learned
from the answers to all prompts (dark) and for one that learned from 32 (pale). Both rewards are in
standard deviations of the reference's answers.

Claim: the reward that a proxy promises is real as long as the policy stays near; where the curves
part, the policy has found what the proxy overrates.
"""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style
from figures.forms import Slide

TITLES = {
    "min": "Min Length, far peak",
    "mode": "Mode Length, near peak",
    "skew": "Skew Length, far data",
}
NAMES = {task: title.partition(",")[0] for task, title in TITLES.items()}
CLIMBER = "DPO"
PALE = 0.55

SLIDES = (
    Slide(
        "At equal KL mode-seeking objectives earn more on Min and Mode Length",
        ((0, 1),),
    ),
    Slide("Gold keeps what a proxy promises on Min Length, and not on Skew Length", ((3, 5),)),
)


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/llm/frontier.py``."""
    settings = result.settings
    tasks = settings["tasks"]
    figure, axes = style.canvas(2, len(tasks), height=9.6, width=14.0, sharey="row")
    for column, task in enumerate(tasks):
        paths(axes[0, column], result, task)
        style.panel_title(axes[0, column], TITLES[task], NAMES[task])
        judges(axes[1, column], result, task)
        accuracy = result.arrays[f"{task}: accuracy"].mean(axis=-1)
        style.panel_title(
            axes[1, column],
            f"Proxies right on {accuracy[-1]:.0%}, {accuracy[0]:.0%}",
            NAMES[task],
        )
        axes[1, column].set_xlabel("KL to the reference, nats per answer")
    axes[0, 0].set_ylabel("gold reward, share of the gain")
    axes[1, 0].set_ylabel("reward, sd of the reference's")
    weak, strong = settings["labelled"]
    style.footnote(
        figure,
        f"{settings['steps']} gradient steps, mean over n = {settings['seeds']} seeds. Above: "
        "on-policy ends filled, offline ends open.\nBelow: on-policy DPO on a proxy trained on "
        f"{strong} prompts (dark) and on {weak} (pale); what the proxy says thin, gold thick. "
        "Titles: pairs of the\nreference's answers that the two proxies order as gold does.",
        f"Filled: on-policy, open: offline; means over n = {settings['seeds']} seeds",
    )
    return figure


def paths(ax: Axes, result: Result, task: str) -> None:
    """The mean path of every method."""
    settings, ends = result.settings, []
    cells = zip(
        settings["methods"],
        settings["objectives"],
        settings["sources"],
        result.arrays[f"{task}: kl"].mean(axis=1),
        result.arrays[f"{task}: gain"].mean(axis=1),
        strict=True,
    )
    methods = list(dict.fromkeys(settings["methods"]))
    marks = dict(zip(methods, style.MARKS[: len(methods)], strict=True))
    for method, objective, source, kl, gain in cells:
        colour, fresh = style.COLOURS[objective], source == "policy"
        look: dict[str, Any] = {"color": colour, "linestyle": style.line_of(objective)}
        ax.plot(kl, gain, alpha=1.0 if fresh else 0.45, linewidth=2.4 if fresh else 1.6, **look)
        face = colour if fresh else "white"
        end: dict[str, Any] = {"markersize": 9, "markerfacecolor": face, "zorder": 7}
        ax.plot(kl[-1], gain[-1], marks[method], color=colour, **end)
        if fresh:
            ends.append((float(kl[-1]), float(gain[-1]), method, colour))
    ax.axhline(0, color=style.REFERENCE, linewidth=1, zorder=0)
    right = 1.03 * max(float(each.mean(axis=0).max()) for each in result.arrays[f"{task}: kl"])
    low = min(-0.05, float(result.arrays[f"{task}: gain"].mean(axis=1).min()) - 0.05)
    ax.set(xlim=(0, right), ylim=(max(low, -0.8), 1.05), yticks=[0, 0.5, 1])
    style.label_ends(ax, [(right, y, name, colour) for _, y, name, colour in ends], gap=0.07)


def judges(ax: Axes, result: Result, task: str) -> None:
    """What the proxy says and what gold says along the path of on-policy DPO."""
    settings = result.settings
    row = settings["climbers"].index(CLIMBER)
    objective = settings["climbing objectives"][row]
    shades = style.shades(objective, len(settings["labelled"]), PALE)[::-1]
    right, ends = 0.0, []
    for column, (labelled, colour) in enumerate(zip(settings["labelled"], shades, strict=True)):
        kl = result.arrays[f"{task}: climb kl"][row, column].mean(axis=0)
        gold = result.arrays[f"{task}: gold"][row, column].mean(axis=0)
        said = result.arrays[f"{task}: proxy"][row, column].mean(axis=0)
        ax.plot(kl, gold, color=colour, linewidth=3.6)
        ax.plot(kl, said, color=colour, linewidth=1.5)
        ax.fill_between(kl, gold, said, color=colour, alpha=0.1, linewidth=0)
        right = max(right, float(kl.max()))
        ends.append((float(said[-1]), f"{labelled}: proxy", colour))
        ends.append((float(gold[-1]), f"{labelled}: gold", colour))
    ax.axhline(0, color=style.REFERENCE, linewidth=1, zorder=0)
    right *= 1.03
    ax.set(xlim=(0, right), ylim=limits(result))
    style.label_ends(ax, [(right, y, name, colour) for y, name, colour in ends], gap=0.07)


def limits(result: Result) -> tuple[float, float]:
    """Room for both rewards on every task."""
    rows = [
        result.arrays[f"{task}: {name}"].mean(axis=-2)
        for task in result.settings["tasks"]
        for name in ("gold", "proxy")
    ]
    low, high = min(float(row.min()) for row in rows), max(float(row.max()) for row in rows)
    return min(low, 0) - 0.1, high + 0.1
