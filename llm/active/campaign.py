"""The loop: acquire, have labelled, fine-tune, compare; again, until the budget is spent.

A round begins with the policy as the round before left it. It writes a pool, an acquisition
function puts it in an order, the best pairs are labelled, and a policy learns from all labels with
DPO, from the reference anew unless it is to go on. Everything that costs is on disk before it is
used: pools, every label, the state of the training. The same command after a kill asks nobody
twice and goes on with the same bits.

Source: Muldrew et al. 2024, arXiv:2402.08114, Algorithm 1.
Differs: a pair that nobody can decide is replaced by the next of its pool, and by a new pool only
    when that is used up; pairs of equal responses are never asked about.
"""

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from llm.active.acquisition import ACQUISITIONS
from llm.active.labels import PREFERENCES, Desk, ask, open_labels, write_preferences
from llm.active.report import description, round_numbers, sentence, table_of
from llm.active.schedule import Schedule
from llm.active.settings import PAIR, Active
from llm.active.workshop import Workshop, judge_of
from llm.data.declared import plan_within
from llm.finetune import export
from llm.groundwork import policy_values
from llm.journal import Journal
from llm.lock import only_writer
from llm.preparation import Prepared, prepare
from llm.progress import Bar
from llm.rewards import Person, RewardError, asks_person
from llm.rollouts import Rollout, Rollouts, path_of, read_rollouts, write_rollouts
from llm.settings import as_record
from llm.state import MODEL, Saver, check_same_run
from llm.step import Step
from llm.train import Stored, run
from llm.update import Parameters, TrainState
from objectives.recipes import RECIPES

RECIPE = "online_dpo"
"""What a campaign is to the rest of the library: DPO on pairs of the policy's own."""

USED_UP = 8
"""Pools of one round after which it is hopeless to find enough pairs that can be decided."""


def active(name: str, settings: Active, console: Console) -> Path:
    """Run a campaign, from wherever it stands.

    Args:
        name: of the acquisition function, in ``ACQUISITIONS``.
        settings: everything else.
        console: where to say what happens.

    Returns:
        Folder of the run; the fine-tuned model is in its folder ``model``.

    Raises:
        ValueError: for anything that cannot be done as asked; nothing slow has begun then.
        OSError: if something cannot be read, written or judged; what was labelled is kept.
        FloatingPointError: if training diverges.
        SystemExit: if it was stopped (128 + signal), or waits for a person (0).
    """
    prepared = prepare_campaign(name, settings, console.print)
    with only_writer(prepared.out):
        begun = check_same_run(prepared.out, prepared.record)
        if begun and (prepared.out / MODEL).exists():
            console.print(f"This run is complete: {prepared.out / MODEL}")
        else:
            Campaign(name, settings, prepared, console).carry_out()
    return prepared.out


def prepare_campaign(name: str, settings: Active, say: Callable[[str], None]) -> Prepared:
    """Read and check what a campaign needs, all but the weights.

    Raises:
        ValueError: names what does not fit and what to do.
        OSError: if something cannot be read, or fetched.
    """
    if ACQUISITIONS[name].members and not settings.adapters.rank:
        raise ValueError(
            f"{name} asks several policies that share one base: give --adapters.rank, for example "
            "8."
        )
    out = settings.out or Path("runs") / f"active_{name}"
    recipe = replace(RECIPES[RECIPE], objective=settings.objective)
    recipe = recipe.with_collection(responses=PAIR, temperature=settings.pool.temperature)
    dataset = settings.contest.against == "dataset"
    training = settings.training(out)
    prepared = prepare(RECIPE, recipe, training, say, people=True, responses=dataset)
    reward = prepared.reward
    if reward is not None and asks_person(reward) and not isinstance(reward, Person):
        raise ValueError(f"--reward is {reward.name}, and a person labels alone: give `person`.")
    if judge_of(prepared) is not None and not prepared.held_out:
        raise ValueError("no prompt is held out to compare on: raise --reading.eval-share.")
    record = prepared.record | {"acquisition": name, "campaign": as_record(settings)}
    return replace(prepared, record=record)


@dataclass(eq=False)
class Member:
    """A policy that learns: the one that writes, or another of its ensemble.

    Attributes:
        initial: the parameters that train, before they did.
        state: where it stands.
        saver: of its checkpoints.
        journal: of its metrics.
        restored: whether there was a checkpoint.
    """

    initial: Parameters
    state: TrainState
    saver: Saver
    journal: Journal
    restored: bool


class Campaign:
    """One campaign on its devices.

    Args:
        name: of the acquisition function.
        settings: of the campaign.
        prepared: its inputs.
        console: where to say what happens.
    """

    def __init__(self, name: str, settings: Active, prepared: Prepared, console: Console) -> None:
        self.name, self.settings, self.prepared, self.console = name, settings, prepared, console
        self.folder, self.labels = prepared.out, open_labels(prepared.out)
        self.tools, self.schedule = Workshop(name, settings, prepared), Schedule(settings)
        self.bought: dict[int, Rollouts] = {}

    def carry_out(self) -> None:
        """All rounds that are left, and the model that comes of them."""
        with ExitStack() as opened:
            with self.console.status("compiling"):
                members = self.open_members(opened)
                step = self.tools.step(members[0].state)
            policy, total = members[0], self.schedule.ends[-1]
            done = int(policy.state.step)
            self.console.print(
                description(self.name, self.settings, self.prepared, judge_of(self.prepared), total)
            )
            if done:
                self.console.print(f"going on after step {done}")
            bar = opened.enter_context(Bar(self.console, self.name, total, done))
            if not policy.restored:
                if self.tools.contest is not None:
                    bar.say("comparing")
                    policy.journal.write(0, "eval", self.tools.contest(policy.state.trainable), {})
                policy.saver.save(0, policy.state)
            for number in range(self.schedule.round_at(done), self.settings.rounds):
                self.carry_out_round(number, step, members, bar)
        export(self.prepared, self.tools.loaded, policy.state.trainable)
        self.console.print(table_of(self.folder))
        self.console.print(f"model: {self.folder / MODEL}")
        self.console.print(f"labels as a preference data set: {self.folder / PREFERENCES}")

    def open_members(self, opened: ExitStack) -> list[Member]:
        """Every member as its last checkpoint has it; the first is the policy."""
        members = []
        for number in range(self.settings.pool.members if ACQUISITIONS[self.name].members else 1):
            initial = self.tools.initial(number)
            state = self.tools.start(initial)
            folder = self.folder if number == 0 else self.folder / "members" / str(number)
            saver = opened.enter_context(closing(Saver(folder, self.settings.save, state)))
            restored = saver.restore(state, self.console.print)
            done = -1 if restored is None else int(restored.step)
            about = f"{self.name} {number}", self.prepared.record
            journal = Journal(folder, self.settings.log, done, *about)
            opened.enter_context(closing(journal))
            known = restored is not None
            members.append(Member(initial, restored if known else state, saver, journal, known))
        return members

    def carry_out_round(self, number: int, step: Step, members: Sequence[Member], bar: Bar) -> None:
        """Acquire, learn, compare.

        Args:
            number: of the round, counted from 0.
            step: the compiled step.
            members: the first is the policy. It learns last: where it has learned, all have.
            bar: of the campaign.
        """
        bought = self.acquire(number, members, bar)
        first = number if self.settings.learn == "newest" else 0
        pairs = self.labelled(first, number)
        began = time.monotonic()

        def measure(trainable: Parameters) -> dict[str, float]:
            clock = {**bought.facts["clock"], "training": time.monotonic() - began}
            with jax.transfer_guard("allow"):
                return self.conclude_round(number, bought, trainable, members[0], clock, bar)

        for member in reversed(members):
            self.learn(number, member, step, pairs, measure if member is members[0] else None, bar)

    def labelled(self, first: int, last: int) -> list[Rollout]:
        """The labelled pairs of some rounds, the last included."""
        for number in range(first, last + 1):
            if number not in self.bought:
                self.bought[number] = read_rollouts(path_of(self.folder, number))
        rounds = (self.bought[number].rollouts for number in range(first, last + 1))
        return [pair for rollouts in rounds for pair in rollouts]

    def acquire(self, number: int, members: Sequence[Member], bar: Bar) -> Rollouts:
        """The labelled pairs of a round, with what the reference says of them.

        Raises:
            RewardError: if the judge fails, or can decide hardly anything.
            SystemExit: if a person is to be asked.
        """
        path = path_of(self.folder, number)
        if path.exists():
            return read_rollouts(path)
        wanted, reward = self.settings.labels, self.prepared.reward
        assert reward is not None
        clock = dict.fromkeys(("generation", "scoring", "labelling"), 0.0)
        decided: list[Rollout] = []
        facts: list[dict[str, Any]] = []
        undecided = 0
        while len(decided) < wanted:
            if len(facts) == USED_UP:
                raise RewardError(
                    f"{reward.name} decided {len(decided)} of the {wanted} pairs wanted in round "
                    f"{number + 1}, and could not decide {undecided}: ask somebody who tells "
                    "responses apart, or let them be longer with --sampling.max-new-tokens."
                )
            missing = wanted - len(decided)
            policies = [member.state.trainable for member in members]
            self.tools.chooser.load(policy_values(self.tools.loaded, policies[0]))
            at = number, len(facts)
            pool = self.tools.chooser.pool(*at, missing, policies, number == 0, bar.say)
            if pool.facts["blind"] and not facts:
                bar.print(
                    f"round {number + 1} chooses at random: policy and reference are the same, so "
                    f"{self.name} has no beliefs to go by"
                )
            began = time.monotonic()
            desk = Desk(pool.rollouts, missing, self.labels)
            if isinstance(reward, Person):
                self.wait_for_person(number, desk)
            else:
                ask(reward, desk, bar.say)
            clock["labelling"] += time.monotonic() - began
            decided += desk.decided
            undecided += desk.undecided
            facts.append(pool.facts)
        began = time.monotonic()
        bought = self.with_reference(decided)
        for name in ("generation", "scoring"):
            clock[name] += sum(one["clock"][name] for one in facts)
        clock["scoring"] += time.monotonic() - began
        numbers = round_numbers(bought, facts, fresh=number == 0) | {"undecided": undecided}
        found = Rollouts(number, bought, {"numbers": numbers, "clock": clock, "round": number})
        write_rollouts(path, found)
        return found

    def wait_for_person(self, number: int, desk: Desk) -> None:
        """Leave the work to ``modeseek label`` if there is any.

        Raises:
            SystemExit: if there is.
        """
        waiting = desk.waiting()
        if waiting:
            self.console.print(
                f"round {number + 1}: pairs wait for a person, {len(waiting)} of them. Give "
                f"`modeseek label {self.folder}`, and then this command again."
            )
            raise SystemExit(0)

    def with_reference(self, pairs: Sequence[Rollout]) -> list[Rollout]:
        """Pairs with what the reference says of every token, asked where it is not known yet."""
        if all("ref_logp" in pair.known for pair in pairs):
            return list(pairs)
        said = self.tools.rescorer(self.tools.loaded.trainable, [pair.group for pair in pairs])
        return [
            replace(pair, known={**pair.known, "ref_logp": one.logp})
            for pair, one in zip(pairs, said, strict=True)
        ]

    def learn(
        self,
        number: int,
        member: Member,
        step: Step,
        pairs: Sequence[Rollout],
        measure: Callable[[Parameters], dict[str, float]] | None,
        bar: Bar,
    ) -> None:
        """Let a member learn from pairs, from wherever in the round it stands.

        Raises:
            SystemExit: if somebody stopped it; what was learned is saved.
        """
        begin, end = self.schedule.begin(number), self.schedule.ends[number]
        at, last = int(member.state.step), number == self.settings.rounds - 1
        if at >= end:
            return
        if at == begin:
            anew = self.settings.restart or number == 0
            state = self.tools.start(member.initial if anew else member.state.trainable)
            member.state = replace(state, step=jax.device_put(np.int32(begin), state.step.sharding))
        plan = plan_within(
            self.tools.shapes,
            [pair.group for pair in pairs],
            self.schedule.order(number),
            self.prepared.settings.packing,
            steps=end - begin,
            shards=self.tools.loaded.shards,
            width=self.prepared.architecture.width,
            known={"ref_logp": [pair.known["ref_logp"] for pair in pairs]},
        )
        finished = run(
            self.prepared,
            Stored(plan, at, self.tools.loaded.put, before=begin),
            step,
            member.state,
            measure or (lambda trainable: {}),
            steps=end,
            put=self.tools.loaded.put,
            saver=member.saver,
            journal=member.journal,
            bar=bar,
            # A round can be learned again from what is on disk, so where rounds are short not
            # every one is worth a checkpoint.
            save_end=last or end - member.saver.saved >= self.settings.save.every,
        )
        member.state = finished.state
        if finished.signal is not None:
            self.console.print(
                f"stopped by {signal.Signals(finished.signal).name} in round {number + 1}, after "
                f"step {finished.step} of {self.schedule.ends[-1]}. The same command goes on from "
                "there."
            )
            raise SystemExit(128 + finished.signal)

    def conclude_round(
        self,
        number: int,
        bought: Rollouts,
        trainable: Parameters,
        policy: Member,
        clock: dict[str, float],
        bar: Bar,
    ) -> dict[str, float]:
        """Write down what a round took and brought; its contest, where one is due."""
        last = number == self.settings.rounds - 1
        due = last or (number + 1) % self.settings.contest.every == 0
        found, began = {}, time.monotonic()
        if self.tools.contest is not None and due:
            bar.say("comparing")
            found = self.tools.contest(trainable)
        labels = self.settings.labels * (number + 1)
        clock["evaluation"] = time.monotonic() - began
        clock["per_label"] = sum(clock.values()) / self.settings.labels
        numbers = {"round": number, "labels": labels, **bought.facts["numbers"]}
        policy.journal.write(self.schedule.ends[number], "round", numbers, clock)
        if due:
            self.write_preferences(number)
        bar.print(sentence({**numbers, **found}, clock))
        return {"labels": float(labels), **found} if found else {}

    def write_preferences(self, number: int) -> None:
        """Everything that was decided so far, for any other trainer."""
        pairs, known = self.labelled(0, number), self.labels.known
        facts = {
            pair.prompt_id: {
                "by": known[pair.prompt_id].by,
                "at": known[pair.prompt_id].at,
                "round": place // self.settings.labels,
            }
            for place, pair in enumerate(pairs)
        }
        write_preferences(self.folder / PREFERENCES, pairs, facts)
