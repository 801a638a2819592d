"""The three length tasks with Pythia-1.4B: where the reward's peak lies decides what helps.

Question: does fresh data matter more where the preferred length is one that the reference hardly
ever writes (Min and Skew Length) than where it is the usual one (Mode Length)? Command: ``python -m
experiments.llm.full_scale.lengths``; ``--stage 'min/*'`` is one task with all its ablations.
Hardware and time: as the plan says. Numbers to expect, read off the paper's plots after 600 steps,
from 185 to 220 tokens: Min Length on-policy DPO about 1 token, offline DPO about 1, PPO about 6,
on-policy RWR about 72; distance from the mode 10 to 30 for all; Skew Length on-policy DPO about 0,
offline DPO 10 to 15, PPO about 13, RWR about 22.

The gold reward is exact: minus the length, or minus its distance from the mode. The paper does not
state the mode, and its labels are published; so it is measured on them (``preferred_length``), and
the share of labels it explains is printed beside it. How Skew Length's responses were cut is not
known either; the authors' data are used as they are.
"""

from collections.abc import Callable

from experiments.llm.full_scale.alpacafarm import ASSUMED, PYTHIA
from experiments.llm.full_scale.authors import measure, preferred_length, write_farm, write_pairs
from experiments.llm.full_scale.command import main
from experiments.llm.full_scale.methods import sft, task_stages
from experiments.llm.full_scale.stages import Facts, Place, Stage, Study

TASKS = ("min", "mode", "skew")


def write_data(place: Place, say: Callable[[str], None]) -> Facts:
    """Fetch the prompts and the labels of the three tasks, write them out, and measure them."""
    farm = write_farm(place, say)
    pairs = {task: write_pairs(place, task, say)[0] for task in TASKS}
    target, agreement = preferred_length(place, pairs["mode"])
    facts = Facts(
        demonstrations=farm["sft"],
        pairs=len(pairs["mode"]),
        prompts=farm["prompts"],
        prompt_tokens=0.0,
        response_tokens=0.0,
        longest=0,
        target=target,
        agreement=agreement,
    )
    return measure(place, facts, pairs["mode"])


def stages(place: Place, facts: Facts) -> list[Stage]:
    """The reference, then the tasks."""
    # Before the data are there the mode is not known, and a plan does not depend on it.
    mode = None if facts.target is None else f"mode-length:{facts.target}"
    gold = {"min": "min-length", "mode": mode, "skew": "min-length"}
    found = [sft(place, facts)]
    for task in TASKS:
        found += task_stages(place, facts, task, gold[task])
    return found


STUDY = Study(
    name="lengths",
    title="Min, Mode and Skew Length with Pythia-1.4B: offline and online, batch size and reuse.",
    model="EleutherAI/pythia-1.4b",
    config=PYTHIA,
    assumed=ASSUMED,
    write_data=write_data,
    stages=stages,
)

if __name__ == "__main__":
    main(STUDY)
