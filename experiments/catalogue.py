"""Which experiments there are, what each asks, and what it costs: readable without running any.

The order is the order of the story. The cost decides which experiment starts first when several run
side by side, and the estimate of the time left.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Experiment:
    """One entry of the catalogue.

    Attributes:
        question: what the experiment asks.
        seconds: measured cost at default size on one core, compilation included.
        reads: experiments whose results it starts from.
        by_default: whether ``modeseek reproduce`` runs it without being asked by name.
    """

    question: str
    seconds: float
    reads: tuple[str, ...] = ()
    by_default: bool = True


BANDIT: dict[str, Experiment] = {
    "environment": Experiment("What do the reference and the two rewards look like?", 2),
    "relocation": Experiment("Where does each direction of the KL move probability mass?", 10),
    "velocities": Experiment("How fast, and is the theory true of softmax logits?", 6),
    "on_policy": Experiment("What does stale data cost?", 30),
    "reuse": Experiment("How often may the same samples be used?", 24),
    "negative_gradient": Experiment("Offline: does pushing down beat only pulling up?", 25),
    "mechanism": Experiment("Whose probability falls when a contrastive loss falls?", 17),
    "complementarity": Experiment("Do on-policy data and a negative gradient add up?", 45),
    "unlikelihood": Experiment("Is an explicit push enough?", 14),
    "taxonomy": Experiment("Which objectives push down, and how hard?", 4),
    "frontier": Experiment(
        "How much reward does each method buy per nat of KL?", 2, ("complementarity",)
    ),
    "acquisition": Experiment("Which labels are worth asking for?", 20),
    "kl_estimators": Experiment("What does a KL penalty made of samples really pull towards?", 5),
    "calibration": Experiment(
        "Do independently measured numbers of the paper's equations agree?", 840, by_default=False
    ),
}


def chosen(names: Sequence[str]) -> list[str]:
    """The experiments asked for, with those they read, in the order of the story.

    Args:
        names: as typed; none means all that run by default.

    Raises:
        ValueError: for a name that is unknown; lists the near ones.
    """
    wanted = set(names) or {name for name, entry in BANDIT.items() if entry.by_default}
    for name in sorted(wanted):
        check_known("experiment", name, BANDIT)
    for name in tuple(wanted):
        wanted.update(BANDIT[name].reads)
    return [name for name in BANDIT if name in wanted]


def check_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise unless a name is known; the message lists the near names, or all of them."""
    known = list(known)
    if name in known:
        return
    lowered = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), list(lowered), n=4, cutoff=0.5)
    hint = (
        "Did you mean " + " or ".join(lowered[match] for match in near) + "?"
        if near
        else "There are: " + ", ".join(known) + "."
    )
    raise ValueError(f"unknown {kind} {name!r}. {hint}")


def sources(name: str) -> list[Path]:
    """The code a result depends on: both floors below, the experiment, and its inputs' code."""
    shared = [path for path in (ROOT / "experiments").glob("*.py") if path != Path(__file__)]
    floors = [path for floor in ("objectives", "bandit") for path in (ROOT / floor).glob("*.py")]
    own = [ROOT / "experiments" / "bandit" / f"{part}.py" for part in (name, *BANDIT[name].reads)]
    return shared + floors + own
