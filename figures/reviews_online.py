"""Every label used once: certainty against chance, ours beside the authors'.

Caption: win rate against the reference over phases of 64 fresh labels and one gradient step each,
never used again; ours (left, bands over seeds) and the authors' (right, means of 3 seeds). Both are
judged by a classifier of sentiment.

Claim: where labels are used once, choosing the surest pairs speeds the policy up.
"""

from matplotlib.figure import Figure

from experiments.results import Result
from figures import acquisitions, style


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/reviews/online.py``."""
    settings, arrays = result.settings, result.arrays
    figure, axes = style.canvas(1, 2, height=5.8, width=13.5, sharey=True)
    ours, theirs = axes[0]
    for row, name in enumerate(settings["functions"]):
        look = acquisitions.look(name)
        style.curve(ours, arrays["labels"], arrays["win_rate"][row], "DPO", label=name, **look)
        theirs.plot(arrays["authors_labels"], arrays["authors"][row], marker="o", **look)
    ours.legend(loc="lower right", fontsize=13)
    style.panel_title(ours, "Every label used once")
    style.panel_title(theirs, "The authors: GPT-2 large")
    ours.set(xlabel="labels", ylabel="win rate against the reference", ylim=(0.45, 1.01))
    theirs.set(xlabel="labels")
    style.footnote(
        figure,
        f"{settings['phases']} phases of {settings['labels_per_phase']} labels and one gradient "
        f"step; certainty picks among {settings['online_pairs']} times as many. Bands: 95% "
        f"intervals over n = {settings['seeds']} seeds. The authors': means of 3 seeds.",
    )
    return figure
