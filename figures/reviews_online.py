"""Every label used once: certainty against chance, ours beside the authors'.

Caption: win rate against the reference over phases of fresh labels and one gradient step each,
never used again; ours (with bands over seeds) and the authors' (means of 3 seeds). Both are judged
by a classifier of sentiment.

Claim: where labels are used once, choosing the surest pairs speeds the policy up.
"""

from typing import Any

from matplotlib.figure import Figure

from experiments.results import Result
from figures import acquisitions, style
from figures.forms import COLUMN, Page, Slide

SLIDES = (
    Slide("Certainty looks ahead where labels are used once; five seeds cannot tell", ((0, 1),)),
)

PAGE = Page(COLUMN, 4.2, ((0,), (1,)))


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/reviews/online.py``."""
    settings, arrays = result.settings, result.arrays
    figure, axes = style.canvas(1, 2, height=5.8, width=13.5, sharey=True)
    ours, theirs = axes[0]
    ends: tuple[list[Any], list[Any]] = [], []
    for row, name in enumerate(settings["functions"]):
        look = acquisitions.look(name)
        end = style.curve(ours, arrays["labels"], arrays["win_rate"][row], "DPO", **look)
        theirs.plot(arrays["authors_labels"], arrays["authors"][row], marker="o", **look)
        ends[0].append((*end, name, look["color"]))
        last = arrays["authors_labels"][-1], arrays["authors"][row, -1]
        ends[1].append((*map(float, last), name, look["color"]))
    style.panel_title(ours, "Every label used once", "Ours")
    style.panel_title(theirs, "The authors: GPT-2 large", "The authors")
    ours.set(xlabel="labels", ylabel="win rate against the reference", ylim=(0.45, 1.01))
    theirs.set(xlabel="labels")
    for ax, named in zip(axes[0], ends, strict=True):
        style.label_ends(ax, named, gap=0.08)
    style.footnote(
        figure,
        f"{settings['phases']} phases of {settings['labels_per_phase']} labels and one gradient "
        f"step; certainty picks among {settings['online_pairs']} times as many. Bands: 95% "
        f"intervals over n = {settings['seeds']} seeds. The authors': means of 3 seeds.",
        f"Bands: 95% intervals over n = {settings['seeds']} seeds; the authors': means of 3",
    )
    return figure
