"""Which experiments there are, what each asks, and what it costs: readable without running any.

The order is the order of the story. The cost decides which experiment starts first when several run
side by side, and the estimate of the time left.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Experiment:
    """One entry of the catalogue.

    Attributes:
        question: what the experiment asks.
        seconds: measured cost at default size on one core, compilation included.
        reads: experiments whose results it starts from.
        by_default: whether ``modeseek reproduce`` runs it without being asked by name.
        study: which study it belongs to; its results lie in a folder of that name.
    """

    question: str
    seconds: float
    reads: tuple[str, ...] = ()
    by_default: bool = True
    study: Literal["bandit", "text", "reviews"] = "bandit"


def on_text(question: str, seconds: float) -> Experiment:
    """An experiment of the study on text; its cost includes the runs it shares with others."""
    return Experiment(question, seconds, by_default=False, study="text")


def on_reviews(question: str, seconds: float) -> Experiment:
    """An experiment of active preference learning on film reviews; likewise."""
    return Experiment(question, seconds, by_default=False, study="reviews")


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
    "acquisition": Experiment("Which labels are worth asking for?", 50),
    "kl_estimators": Experiment("What does a KL penalty made of samples really pull towards?", 5),
    "calibration": Experiment(
        "Do independently measured numbers of the paper's equations agree?", 840, by_default=False
    ),
}

TEXT: dict[str, Experiment] = {
    "text_environment": on_text("What do reference, tasks and proxies look like?", 180),
    "text_on_policy": on_text("What does stale data cost on text?", 3000),
    "text_reuse": on_text("How often may the same answers be used?", 960),
    "text_negative_gradient": on_text("Offline on text: does pushing beat pulling?", 2000),
    "text_mechanism": on_text("Whose probability falls on text?", 500),
    "text_complementarity": on_text("Do on-policy data and a negative gradient add up?", 6600),
    "text_frontier": on_text("How much reward per nat, and how much of it is real?", 2800),
}

REVIEWS: dict[str, Experiment] = {
    "reviews_acquisition": on_reviews("Which labels are worth asking for, on IMDB?", 3000),
    "reviews_online": on_reviews("Does choosing pay where every label is used once?", 1500),
    "reviews_beyond": on_reviews("Ensembles, diversity, pruning, adapters, a small judge", 4000),
}

STUDIES = {"text": "experiments.llm.study", "reviews": "experiments.reviews.campaigns"}
"""Studies whose runs are kept apart from what is read from them, and the module that says where."""

CATALOGUE = BANDIT | TEXT | REVIEWS
GROUPS = {"text": tuple(TEXT), "reviews": tuple(REVIEWS)}
"""Names that stand for several experiments."""


def chosen(names: Sequence[str]) -> list[str]:
    """The experiments asked for, with those they read, in the order of the story.

    Args:
        names: as typed, of experiments or of ``GROUPS``; none means all that run by default.

    Raises:
        ValueError: for a name that is unknown; lists the near ones.
    """
    asked = [part for name in names for part in GROUPS.get(name, (name,))]
    wanted = set(asked) or {name for name, entry in CATALOGUE.items() if entry.by_default}
    for name in sorted(wanted):
        check_known("experiment", name, [*CATALOGUE, *GROUPS])
    for name in tuple(wanted):
        wanted.update(CATALOGUE[name].reads)
    return [name for name in CATALOGUE if name in wanted]


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


def module_of(name: str) -> str:
    """The module that runs an experiment."""
    study = CATALOGUE[name].study
    return f"experiments.{FOLDERS[study]}.{name.removeprefix(f'{study}_')}"


FOLDERS = {"bandit": "bandit", "text": "llm", "reviews": "reviews"}
"""Where the experiments of a study stand."""


def sources(name: str) -> list[Path]:
    """The code a result depends on: the floors below, the experiment, and its inputs' code.

    Of a language model that is the experiment with the code of what it reads; all that the runs
    themselves depend on is in the name of the folder they are kept in (``STUDIES``).
    """
    shared = [path for path in (ROOT / "experiments").glob("*.py") if path != Path(__file__)]
    study = CATALOGUE[name].study
    if study in STUDIES:
        return shared + sorted((ROOT / "experiments" / FOLDERS[study]).glob("*.py"))
    floors = [path for floor in ("objectives", "bandit") for path in (ROOT / floor).glob("*.py")]
    own = [ROOT / "experiments" / "bandit" / f"{part}.py" for part in (name, *BANDIT[name].reads)]
    return shared + floors + own
