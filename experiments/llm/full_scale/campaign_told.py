"""The plan of a campaign as a person reads it: in words, who is asked, what each round does."""

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.llm.full_scale.campaign_plan import CampaignPlan, Round
from llm.active import ACQUISITIONS
from llm.active.settings import PAIR
from llm.estimate import GIB, duration
from llm.footprint import OPTIMIZER, WEIGHTS

ANSWER_TOKENS, ANSWER_SECONDS = 60, 3.0
"""What a judge is taken to write, a sentence and a letter, and how long that is taken to take."""


def show(title: str, planned: CampaignPlan, console: Console) -> None:
    """Print the plan.

    Args:
        title: of the study.
        planned: the plan.
        console: where to.
    """
    facts, found = planned.facts, planned.estimate
    console.print(f"[bold]{title}[/]")
    if not facts.measured:
        console.print("[yellow]The prompts are not there yet; what they are like is assumed.[/]")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in (*described(planned), *judging(planned)):
        table.add_row(f"[cyan]{row[0]}[/]", row[1])
    console.print(table)
    console.print(work(planned.rounds))
    console.print(found.table())


def described(planned: CampaignPlan) -> list[tuple[str, str]]:
    """The campaign in words."""
    settings, facts, found = planned.settings, planned.facts, planned.estimate
    pool, contest, rate = settings.pool, settings.contest, settings.optimizer.learning_rate
    acquisition, most = ACQUISITIONS[planned.name], settings.sampling.max_new_tokens
    long = f"{most}" if pool.shortest is None else f"{pool.shortest} to {most}"
    chosen = [acquisition.meaning]
    if acquisition.score is not None:
        chosen.append(f"1 of {pool.pairs} pairs; in round 1, where there is no belief, at random")
    if acquisition.entropy:
        chosen.append(f"after 1 of {pool.prompts} prompts, by {pool.samples} responses to each")
    first = [str(one.labels) for one in planned.rounds[:3]]
    last = [str(one.labels) for one in planned.rounds[3:][-1:]]
    size = sum(i.bytes for i in found.memory if i.what in (WEIGHTS, OPTIMIZER)) / GIB
    model = escape(settings.model or "")
    speed = "the usual rate" if rate is None else f"{rate:.2g}"
    rival = "the initial model" if contest.against == "initial" else "the data set's own responses"
    return [
        (
            "model",
            f"{model}, {settings.dtype}, {found.devices} x {found.device.name}",
        ),
        (
            "prompts",
            f"{facts.train:,}, and {facts.held_out:,} held out; {facts.prompt_tokens:.0f} tokens a "
            f"prompt, {facts.longest} at most; responses of {long} tokens, "
            f"{facts.response_tokens:.0f} in the mean",
        ),
        ("acquisition", f"{planned.name}: {'; '.join(chosen)}"),
        (
            "schedule",
            f"{settings.rounds} rounds of {settings.labels} labels: m = "
            f"{', '.join([*first, *(['...'] if len(planned.rounds) > 4 else []), *last])}; "
            f"temperature {pool.temperature:g}",
        ),
        (
            "learning",
            f"DPO, beta {settings.objective.beta:g}; {settings.epochs:g} epochs over "
            f"{settings.learn} labels in steps of {settings.batch} pairs at {speed}, "
            f"{'from the reference each time' if settings.restart else 'going on'}",
        ),
        (
            "contests",
            f"{planned.contests} on {contest.prompts:,} prompts against {rival}, temperature "
            f"{contest.temperature:g}",
        ),
        ("checkpoints", f"{planned.saves:,} of {size:,.1f} GiB are written, the last is kept"),
    ]


def judging(planned: CampaignPlan) -> list[tuple[str, str]]:
    """Who is asked, how often, and what that costs."""
    settings = planned.settings
    judge, reward = settings.rewards.judge, settings.reward
    labeller = "[yellow]nobody yet[/]" if reward is None else escape(reward)
    decider = labeller if settings.gold is None else escape(settings.gold)
    rows = [
        ("labels by", f"{labeller}, {planned.labelled:,} pairs"),
        ("compared by", f"{decider}, {planned.judged:,} pairs at most"),
    ]
    if not planned.questions:
        return rows
    seconds = planned.questions * ANSWER_SECONDS / judge.concurrency
    rows.append(("criterion", f"{escape(judge.criterion)} (temperature {judge.temperature:g})"))
    rows.append(
        (
            "questions",
            f"{planned.questions:,} of about {planned.question_tokens:.0f} tokens; "
            f"{duration(seconds)} more if an answer takes {ANSWER_SECONDS:g} s and "
            f"{judge.concurrency} are under way",
        )
    )
    about, most = (planned.dollars(answer) for answer in (ANSWER_TOKENS, judge.max_tokens))
    price = "not known: give --rewards.judge.price-in and price-out, dollars per million tokens"
    if about is not None and most is not None:
        price = f"about {about:,.2f} dollars, and {most:,.2f} with answers of {judge.max_tokens}"
        price += " tokens"
        if judge.max_cost is not None and judge.max_cost < about:
            price += f"; [yellow]--rewards.judge.max-cost {judge.max_cost:g} will stop it before[/]"
    if judge.max_calls < planned.questions:
        price += f"; [yellow]--rewards.judge.max-calls {judge.max_calls} will stop it before[/]"
    return [*rows, ("price", price)]


def work(rounds: Sequence[Round]) -> Table:
    """Rounds with their work, those that are alike in one line."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("round", no_wrap=True)
    names = ("labels so far", "prompts drawn", "responses", "pairs read", "steps")
    for column in names:
        table.add_column(column, justify="right", no_wrap=True)

    def alike(numbered: tuple[int, Round]) -> tuple[int, ...]:
        one = numbered[1]
        return one.prompts, one.sampled, one.pairs, one.read, one.steps

    def cells(*numbers: int) -> list[str]:
        return [f"{number:,}" for number in numbers]

    for _, group in groupby(enumerate(rounds, 1), alike):
        some = list(group)
        (first, _), (last, one) = some[0], some[-1]
        written = one.sampled + PAIR * one.pairs
        name = f"{first}" if first == last else f"{first} to {last}, each"
        table.add_row(name, *cells(one.labels, one.prompts, written, one.read, one.steps))
    table.add_row(
        "[bold]all[/]",
        *cells(
            rounds[-1].labels,
            sum(one.prompts for one in rounds),
            sum(one.sampled + PAIR * one.pairs for one in rounds),
            sum(one.read for one in rounds),
            sum(one.steps for one in rounds),
        ),
    )
    return table
