"""What a campaign of active preference learning will take, counted before it begins.

A campaign has no step that writes, learns and asks at once, so its plan is a sum over rounds: what
is written to choose from, what the reference reads of it, what is learned, and how often somebody
is asked who costs money. Memory, arithmetic and speed come from ``llm.estimate``; two numbers about
the judge are opinions, and they are stated where they are shown.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm.active import ACQUISITIONS, Active
from llm.active.campaign import RECIPE
from llm.active.schedule import Schedule
from llm.active.settings import PAIR
from llm.devices import Device
from llm.estimate import GIB, Estimate, estimate, sampling_seconds
from llm.flops import forward_flops
from llm.model.architecture import Architecture
from llm.rewards.judge import SYSTEM, wording
from llm.rewards.specs import parse
from llm.workload import Workload
from objectives.recipes import RECIPES

CHARACTERS = 4
"""Of a token, where a question to the judge is counted."""

TF32 = 0.5
"""Of the products in bfloat16 that a GPU does in the same time in float32, as JAX asks for it."""

JUDGE, PERSON = "judge:", "person"


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What is known of the prompts: measured once they are there, assumed before.

    Attributes:
        measured: whether they were.
        train: how many there are to choose from.
        held_out: how many there are for contests.
        prompt_tokens: of a prompt, mean.
        longest: tokens of the longest one.
        response_tokens: of a response that is learned from, mean.
    """

    measured: bool = False
    train: int
    held_out: int
    prompt_tokens: float
    longest: int
    response_tokens: float


@dataclass(frozen=True, kw_only=True)
class Round:
    """The work of a round.

    Attributes:
        labels: bought so far, those of this round included.
        prompts: drawn.
        sampled: responses written to estimate entropies.
        pairs: written.
        read: pairs read without learning, each as often as it is.
        steps: of the optimizer.
    """

    labels: int
    prompts: int
    sampled: int
    pairs: int
    read: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class CampaignPlan:
    """A campaign and what it will take.

    Attributes:
        name: of the acquisition function.
        settings: of the campaign.
        facts: about the prompts.
        rounds: each with its work.
        contests: how many there are.
        labelled: pairs that whoever labels is asked about.
        judged: pairs that whoever decides contests is asked about, at most.
        questions: to a language model, of those.
        question_tokens: of one, about.
        saves: checkpoints written.
        estimate: memory, tokens, arithmetic and time, the judge's not included.
    """

    name: str
    settings: Active
    facts: Prompts
    rounds: tuple[Round, ...]
    contests: int
    labelled: int
    judged: int
    questions: int
    question_tokens: float
    saves: int
    estimate: Estimate

    def dollars(self, answer: int) -> float | None:
        """What the judge costs if an answer has so many tokens; None where prices are not known."""
        judge = self.settings.rewards.judge
        if judge.price_in is None or judge.price_out is None:
            return None
        each = self.question_tokens * judge.price_in + answer * judge.price_out
        return self.questions * each / 1e6


def rounds_of(name: str, settings: Active) -> tuple[Round, ...]:
    """The work of every round, if every pair is decided.

    Args:
        name: of the acquisition function.
        settings: of the campaign.
    """
    acquisition, sizes, wanted = ACQUISITIONS[name], settings.pool, settings.labels
    schedule, found = Schedule(settings), []
    for number in range(settings.rounds):
        chooses = acquisition.score is not None
        blind = chooses and number == 0  # policy and reference are the same
        whole = math.ceil(wanted * (sizes.pairs if chooses else 1) / (1 - sizes.prune))
        pairs = math.ceil(wanted / (1 - sizes.prune)) if blind else whole
        prompts = whole * sizes.prompts if acquisition.entropy else pairs
        asked = sizes.members if acquisition.members else 1
        everything = (chooses and not blind) or sizes.prune > 0
        found.append(
            Round(
                labels=wanted * (number + 1),
                prompts=prompts,
                sampled=prompts * sizes.samples if acquisition.entropy else 0,
                pairs=pairs,
                read=(pairs if everything else wanted) + (0 if blind else pairs * (asked - 1)),
                steps=schedule.ends[number] - schedule.begin(number),
            )
        )
    return tuple(found)


def contests_of(settings: Active) -> int:
    """How often the policy is compared: before the first round, when it is due, after the last."""
    if settings.gold is None and settings.reward == PERSON:
        return 0
    ends = range(1, settings.rounds + 1)
    return 1 + sum(n == settings.rounds or n % settings.contest.every == 0 for n in ends)


def plan(
    name: str,
    settings: Active,
    facts: Prompts,
    architecture: Architecture,
    device: Device,
    devices: int,
) -> CampaignPlan:
    """What a campaign will take.

    Args:
        name: of the acquisition function.
        settings: of the campaign.
        facts: about the prompts.
        architecture: of the policy.
        device: one of those it runs on.
        devices: how many.

    Raises:
        ValueError: for a reward that is none.
    """
    rounds, contests = rounds_of(name, settings), contests_of(settings)
    contest = min(settings.contest.prompts, facts.held_out)
    labelled, judged = settings.labels * settings.rounds, contests * contest
    by_judge = {
        spec: spec is not None and any(term.name.startswith(JUDGE) for term in parse(spec))
        for spec in (settings.reward, settings.gold or settings.reward)
    }
    question = SYSTEM + wording(settings.rewards.judge.criterion, "", "", "", mark="0" * 8)
    each = len(question) / CHARACTERS + facts.prompt_tokens + PAIR * facts.response_tokens
    steps = sum(one.steps for one in rounds)
    return CampaignPlan(
        name=name,
        settings=settings,
        facts=facts,
        rounds=rounds,
        contests=contests,
        labelled=labelled,
        judged=judged,
        questions=labelled * by_judge[settings.reward]
        + judged * by_judge[settings.gold or settings.reward],
        question_tokens=each,
        saves=1 + settings.rounds + steps // settings.save.every,
        estimate=resources(name, settings, facts, rounds, contests, architecture, device, devices),
    )


def resources(
    name: str,
    settings: Active,
    facts: Prompts,
    rounds: Sequence[Round],
    contests: int,
    architecture: Architecture,
    device: Device,
    devices: int,
) -> Estimate:
    """Memory, tokens, arithmetic and time of all rounds and contests."""
    if device.kind == "gpu" and settings.dtype == "float32":
        device = dataclasses.replace(device, flops=TF32 * device.flops)
    most = settings.sampling.max_new_tokens
    load = Workload(
        prompts=facts.train,
        prompt_tokens=facts.prompt_tokens,
        response_tokens=min(facts.response_tokens, float(most)),
        longest=facts.longest,
    )
    # A response that is cut to a length of its own is written to the end first.
    cut = settings.pool.shortest is not None
    shown = dataclasses.replace(load, response_tokens=float(most) if cut else load.response_tokens)
    recipe = dataclasses.replace(RECIPES[RECIPE], objective=settings.objective)
    recipe = recipe.with_collection(responses=PAIR)
    reading = dataclasses.replace(settings.reading, max_prompt_length=facts.longest)
    training = dataclasses.replace(settings.training(Path()), reading=reading)
    members = settings.pool.members if ACQUISITIONS[name].members else 1
    steps = members * sum(one.steps for one in rounds)
    learned = estimate(
        architecture,
        RECIPE,
        recipe,
        dataclasses.replace(training, steps=steps),
        load,
        device,
        devices,
    )
    # Pools are written many side by side, whatever the batch is.
    pool = dataclasses.replace(training, batch=max(one.pairs for one in rounds), steps=1)
    held = estimate(architecture, RECIPE, recipe, pool, load, device, devices).memory

    rivals = 1 if settings.contest.against == "initial" and contests else 0
    answered = contests + rivals
    contest = min(settings.contest.prompts, facts.held_out)
    jobs = Counter((one.pairs, PAIR) for one in rounds)
    jobs.update((one.prompts, settings.pool.samples) for one in rounds if one.sampled)
    jobs[contest, 1] += answered

    def seconds(prompts: int, responses: int) -> float:
        asked = dataclasses.replace(training, batch=prompts)
        many = recipe.with_collection(responses=responses)
        return sampling_seconds(architecture, asked, many, shown, device, devices, 1)

    pass_over = forward_flops(architecture, load.group(PAIR))
    judging = sum(one.read for one in rounds) * pass_over
    return dataclasses.replace(
        learned,
        memory=held,
        collections=len(rounds),
        generated=shown.response_tokens
        * sum(prompts * n * times for (prompts, n), times in jobs.items()),
        judging_flops=judging,
        judging_seconds=judging / (device.flops * device.mfu * devices),
        sampling_flops=sum(
            prompts * times * forward_flops(architecture, shown.group(n))
            for (prompts, n), times in jobs.items()
        ),
        sampling_seconds=sum(seconds(prompts, n) * times for (prompts, n), times in jobs.items()),
    )


def check(planned: CampaignPlan) -> None:
    """Raise ValueError if a campaign lacks prompts or memory."""
    settings, facts, found = planned.settings, planned.facts, planned.estimate
    if facts.train < settings.batch or facts.held_out < settings.contest.prompts:
        raise ValueError(
            f"there are {facts.train} prompts and {facts.held_out} held out, and a campaign takes "
            f"steps of {settings.batch} and contests of {settings.contest.prompts}: its data are "
            "too few for the authors' settings; --rehearse takes less."
        )
    if not found.fits:
        raise ValueError(
            f"the campaign needs {found.peak / GIB:,.0f} GiB on each of {found.devices} x "
            f"{found.device.name}, which hold {found.device.memory / GIB:,.0f} GiB: plan for a "
            "larger one with --device, or lower --sampling.rows or --packing.max-tokens."
        )
