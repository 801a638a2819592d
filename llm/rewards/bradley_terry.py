"""A trained reward model as reward: what ``modeseek train reward_model`` has made of preferences.

The model reads prompt and response through its own tokenizer, rendered as its training data were,
so that a policy with another vocabulary can be rewarded too. Every response ends with EOS, as all
that the model has ever scored did; a response that was cut is judged as if it ended there. Batches
are made of few shapes, rows and lengths that are powers of two, each compiled once.

Key to the axes: R rows, S positions in a row, B groups of a batch, N responses.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from llm.checkpoints.folders import find_model, open_weights, read_architecture, read_config
from llm.checkpoints.reward import is_reward_model, load_reward_model
from llm.data.cutting import deal, fit, rows_needed
from llm.data.examples import DataSettings, Example, Group
from llm.data.packing import Batch, Shape, pack, run_length
from llm.data.rendering import length_limit, opening_ids, read_template, render
from llm.inputs import read_tokenizer
from llm.rewards.contract import PerResponse, Written, regrouped
from llm.runs import is_run, open_run
from llm.scoring import score_rewards
from llm.settings import REWARD_MODEL
from llm.state import MODEL

SHORTEST = 64
"""Positions of the shortest row."""

WIDTHS = 2
"""Positions of a row of responses that share a prompt, in widths of the model: attention over them
costs a third of the rest. Beyond it, reading the prompt once more is cheaper."""

PER_ROW = 4
"""Groups for each row of a batch: short ones share rows, up to this many on average."""

Score = Callable[[Batch], Float[Array, "B N"]]


@dataclass(frozen=True)
class BradleyTerry:
    """A reward model's score of each response: a log-odds of being preferred, but for a constant.

    Only differences within a prompt mean anything; the model was trained on nothing else.

    Attributes:
        name: what it was asked for as.
        folder: of the model, whose weights are read when it is first asked.
        tokenizer: the model's own.
        reading: how prompts and responses become tokens.
        limit: most tokens of a prompt with one response.
        width: D of the model.
        max_tokens: positions of a batch.
    """

    name: str
    folder: Path
    tokenizer: Any
    reading: DataSettings
    limit: int | None
    width: int
    max_tokens: int

    def __call__(self, groups: Sequence[Sequence[Written]]) -> list[PerResponse]:
        """Scores, in nats of preference."""
        flat = [written for group in groups for written in group]
        rendered = self.render(flat)
        most = min(WIDTHS * self.width, self.max_tokens)
        shared, members = share_prompts(rendered, groups, most)
        found = np.zeros(len(flat))
        for batch in batches(shared, self.max_tokens):
            scores = jax.device_get(self.score(jax.device_put(batch)))
            for b, group in enumerate(batch.example.tolist()):
                if group >= 0:
                    found[members[group]] = scores[b, : len(members[group])]
        return regrouped(found.tolist(), groups)

    def render(self, flat: Sequence[Written]) -> list[Group]:
        """Each response alone, so that no other one decides what is cut of its prompt."""
        twice = "" if self.reading.chat or self.reading.template else written_twice(self.tokenizer)
        examples = [
            Example(w.prompt.removeprefix(twice), (w.response,), (0.0,), self.name) for w in flat
        ]
        return render(examples, self.tokenizer, self.reading, self.limit)

    @cached_property
    def score(self) -> Score:
        """The model, read from its folder, as a compiled function."""
        with jax.transfer_guard("allow"):  # whoever asks may have forbidden what reading needs
            structure, numbers = nnx.split(load_reward_model(str(self.folder)))

        @jax.jit
        def scores(numbers: Any, batch: Batch) -> Float[Array, "B N"]:
            return score_rewards(nnx.merge(structure, numbers), batch)[0][..., 0]

        return lambda batch: scores(numbers, batch)


def written_twice(tokenizer: Any) -> str:
    """The text of a BOS that the tokenizer puts before every prompt by itself."""
    return tokenizer.bos_token or "" if opening_ids(tokenizer) else ""


def share_prompts(
    rendered: Sequence[Group], groups: Sequence[Sequence[Written]], most: int
) -> tuple[list[Group], list[list[int]]]:
    """Put responses that have a prompt in common together, as many as a row can hold.

    Args:
        rendered: every response alone.
        groups: which of them belong together.
        most: positions of a row, unless one response alone takes more.

    Returns:
        Groups, and for each which of the responses it holds.
    """
    most = max([most, *map(run_length, rendered)])
    shared: list[Group] = []
    members: list[list[int]] = []
    start = 0
    for group in groups:
        begun = len(shared)
        for index in range(start, start + len(group)):
            one = rendered[index]
            for number in range(begun, len(shared)):
                so_far = shared[number]
                same = np.array_equal(so_far.prompt, one.prompt)
                if same and run_length(so_far) + one.scored <= most:
                    shared[number] = together(so_far, one)
                    members[number].append(index)
                    break
            else:
                shared.append(one)
                members.append([index])
        start += len(group)
    return shared, members


def together(group: Group, one: Group) -> Group:
    """A group with one more response."""
    return dataclasses.replace(
        group,
        responses=group.responses + one.responses,
        rewards=np.concatenate((group.rewards, one.rewards)),
    )


def batches(groups: Sequence[Group], max_tokens: int) -> Iterator[Batch]:
    """All groups, longest first, in batches whose sides are powers of two.

    Args:
        groups: ``Batch.example`` is an index of these.
        max_tokens: most positions of a batch, unless one group alone takes more.
    """
    if not groups:
        return
    lengths = np.array([run_length(group) for group in groups], np.int64)
    responses = max(len(group.responses) for group in groups)
    (queue,) = deal(range(len(groups)), lengths, 1)
    while queue:
        length = power_of_two(max(queue[0].length, SHORTEST))
        most = 1 << (max(max_tokens // length, 1).bit_length() - 1)
        ahead = queue[: most * PER_ROW]
        wanted = max(rows_needed(ahead, length), -(-len(ahead) // PER_ROW))
        rows = min(power_of_two(wanted), most)
        taken, rest = queue[: rows * PER_ROW], queue[rows * PER_ROW :]
        fitted = fit(taken, rows, length)
        shape = Shape(rows, length, rows * length, rows * PER_ROW, responses, length)
        yield pack(groups, [[place for _, place in fitted.placed]], shape)
        queue = fitted.left + rest


def power_of_two(number: int) -> int:
    """The next power of two."""
    return 1 << (number - 1).bit_length()


def bradley_terry(name: str, place: str, max_tokens: int) -> BradleyTerry:
    """A reward model from its folder, from the folder of the run that trained it, or from the Hub.

    Args:
        name: of the reward.
        place: the folder. That of a run, or of the model in it, also says how training rendered
            prompts; for any other model they are plain text.
        max_tokens: positions that it reads at a time.

    Raises:
        ValueError: if it is no reward model.
        OSError: if it cannot be read or fetched.
    """
    folder, reading = find_reward_model(place)
    if not is_reward_model(read_config(folder)):
        raise ValueError(
            f"{folder} holds a language model, and the reward {name} needs a reward model: give "
            "one that `modeseek train reward_model` has made."
        )
    open_weights(folder)  # a folder without any that are safe to open is refused here
    read_template(reading.template)
    architecture = read_architecture(folder)
    limit = length_limit(reading, architecture.max_positions)
    tokenizer = read_tokenizer(folder)
    return BradleyTerry(name, folder, tokenizer, reading, limit, architecture.width, max_tokens)


def find_reward_model(place: str) -> tuple[Path, DataSettings]:
    """The folder of a reward model, and how its prompts are rendered.

    Raises:
        ValueError: if it is the folder of a run that trains something else, or has not ended.
        OSError: if the Hub does not hand it over.
    """
    folder = Path(place).expanduser()
    above = folder.resolve().parent
    if not is_run(folder):
        run = open_run(above) if folder.name.startswith(MODEL) and is_run(above) else None
        return find_model(place), DataSettings() if run is None else as_trained(run.settings)
    run = open_run(folder)
    if run.name != REWARD_MODEL:
        raise ValueError(
            f"{folder} is a run of {run.name}: give one of `modeseek train {REWARD_MODEL}`."
        )
    if not (folder / MODEL).is_dir():
        raise ValueError(
            f"{folder} holds no {MODEL}: the run is not finished. Finish it, or write one of its "
            f"checkpoints with `modeseek export {folder}` and give that folder."
        )
    return folder / MODEL, as_trained(run.settings)


def as_trained(settings: Any) -> DataSettings:
    """How a run made tokens of text; what is too long is cut, whatever the run did with it."""
    return dataclasses.replace(settings.reading, truncate=True)
