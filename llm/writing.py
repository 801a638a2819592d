"""Responses to a file of prompts, as a file: what a model says, kept in a form to train on.

Prompts are answered some at a time, and each line is on disk as soon as it is written, so that an
interrupted run loses a few prompts and the same command goes on with the next one. Beside the file
lies a note of what it was written with; a file that was written otherwise is never added to. With
a reward the lines are rated responses, which every recipe can learn from as they are.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Int
from rich.console import Console

from llm.cache import cache_folder
from llm.checkpoints.folders import find_model, read_architecture, read_config
from llm.checkpoints.read import load_decoder
from llm.checkpoints.reward import is_reward_model
from llm.data.examples import DataSettings, Example, Group
from llm.data.rendering import tokenize
from llm.data.sources import read_examples
from llm.data.text import prompt_text, response_text
from llm.embedded.examples import built_in
from llm.embedded.pretrain import CORPORA, DOCSTRINGS, HARBOUR, embedded_model
from llm.evaluate import model_of
from llm.inputs import read_tokenizer
from llm.loading import arithmetic, unrolled
from llm.mesh import make_mesh
from llm.model import Decoder
from llm.progress import Bar
from llm.reference import data_fingerprint, model_fingerprint
from llm.refusals import check_people
from llm.rewards import Reward, RewardContext, RewardSettings, Written, identity, read_reward
from llm.runs import is_run, open_run
from llm.sampler import Sample, Sampling, sample, stop_tokens
from llm.settings import as_record
from objectives.hyperparameters import require

NOTE = ".run.json"
"""What follows the name of an output file in that of the note beside it."""


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What to answer, how, and where the answers go."""

    data: str | None = None
    """Hub name, folder or file of prompts, in any layout; responses in it are not read. Held-out
    questions of the embedded language when not given."""
    out: Path = Path("samples.jsonl")
    """File of JSON lines. The same command goes on where it stopped."""
    responses: int = 1
    """Responses to each prompt."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token every time."""
    top_k: int = 0
    """Draw among the k likeliest tokens; 0 for all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together reach this probability, after top_k."""
    max_new_tokens: int = 128
    """A response is cut after this many tokens."""
    min_new_tokens: int = 0
    """Tokens before the first that may end a response."""
    stop_strings: tuple[str, ...] = ()
    """Texts that end a response, besides the model's own end tokens."""
    seed: int = 0
    """Root of all randomness; also that of the embedded questions."""
    logp: bool = False
    """Also write the log-probability of each response, nats, under the distribution drawn from."""
    reward: str | None = None
    """What responses are rated by, as in training; the file can then be trained on."""
    batch: int = 32
    """Prompts answered between two writes to the file."""
    rows: int = 256
    """Responses written side by side; bounds the memory of their caches."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the arithmetic. auto: bfloat16 except on a CPU."""
    reading: DataSettings = field(default_factory=DataSettings)
    rewards: RewardSettings = field(default_factory=RewardSettings)

    def __post_init__(self) -> None:
        require(self.batch >= 1, self, "batch", "at least 1 prompt")
        require(self.rows >= 1, self, "rows", "at least 1 response")
        self.sampling(())

    def sampling(self, stop: tuple[int, ...]) -> Sampling:
        """What the sampler is told, with the tokens that end a response."""
        return Sampling(
            responses=self.responses,
            max_new_tokens=self.max_new_tokens,
            min_new_tokens=self.min_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=self.seed,
            stop=stop,
            stop_strings=self.stop_strings,
        )


def write_responses(name: str | None, settings: Writing, console: Console) -> int:
    """Answer the prompts of a data set.

    Args:
        name: Hub name or folder of a model, or the folder of a run; the embedded model when None.
        settings: what to answer, how, and where the answers go.
        console: where to say what happens.

    Returns:
        How many prompts were answered that had not been.

    Raises:
        ValueError: for anything that does not fit together, an output file of another run too;
            nothing slow has begun then.
        OSError: if something cannot be read, fetched or written.
    """
    say = console.print
    if not settings.out.resolve().parent.is_dir():
        raise ValueError(f"--out is {settings.out}, and there is no folder {settings.out.parent}.")
    # Prompts and reward first: reading them is quick, and the embedded model may have to be made.
    examples = {example.where: example for example in read_prompts(settings, say)}
    reward, judges = None, {}
    if settings.reward is not None:
        context = RewardContext(lambda: tokenizer, cache_folder() / "rewards", say)
        reward = read_reward(settings.reward, settings.rewards, context)
        check_people(reward)
        judges = identity(settings.reward)
    folder = model_folder(name, settings, say)
    architecture, tokenizer = read_architecture(folder), read_tokenizer(folder)
    if is_reward_model(read_config(folder)):
        raise ValueError(f"{folder} is a reward model, which writes nothing: give the policy.")
    reading = with_room(settings, architecture.max_positions)
    groups = tokenize(
        list(examples.values()),
        tokenizer,
        reading,
        context=architecture.max_positions,
        vocab_size=architecture.vocab_size,
        prompts_only=True,
        say=say,
    )
    record = {
        "model": model_fingerprint(folder),
        "prompts": data_fingerprint(groups),
        "judges": judges,
        "settings": {key: as_record(getattr(settings, key)) for key in DECIDES},
    }
    done = written_before(settings.out, record)
    if done == len(groups):
        say(f"{settings.out} holds the answers to all {done} prompts already.")
        return 0
    if done:
        say(
            f"{settings.out} holds the answers to {done} of {len(groups)} prompts; on with the rest"
        )
    decoder = load_policy(folder, settings)
    stop = stop_tokens(folder, tokenizer.eos_token_id)
    answers = Answers(decoder, tokenizer, settings, stop, reward)
    with (
        settings.out.open("a", encoding="utf-8") as file,
        Bar(console, "prompts", len(groups), done) as bar,
    ):
        for start in range(done, len(groups), settings.batch):
            some = groups[start : start + settings.batch]
            prompts = [examples[group.where] for group in some]
            for line in answers(some, prompts, start):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            bar.show(start + len(some), {})
    say(f"{len(groups)} prompts with {settings.responses} responses each: {settings.out}")
    return len(groups) - done


# What a line of the file depends on, beside the model and the prompts.
DECIDES = (
    *("responses", "temperature", "top_k", "top_p", "max_new_tokens", "min_new_tokens"),
    *("stop_strings", "seed", "logp", "reward", "rewards", "dtype"),
)


def model_folder(name: str | None, settings: Writing, say: Callable[[str], None]) -> Path:
    """Where the model is; the embedded one, made if there is none yet, when no name is given."""
    if name is None:
        own = settings.data not in (None, HARBOUR)
        return embedded_model(say, corpus=DOCSTRINGS if own else HARBOUR)
    return model_of(open_run(Path(name))) if is_run(Path(name)) else find_model(name)


def read_prompts(settings: Writing, say: Callable[[str], None]) -> list[Example]:
    """What is to be answered."""
    reading = settings.reading
    if settings.data is None or settings.data in CORPORA:
        found = built_in(settings.data or HARBOUR, "sft", seed=settings.seed, held_out=True)
        return found[: reading.limit]
    return read_examples(
        settings.data,
        split=reading.split,
        limit=reading.limit,
        schema=reading.schema,
        bad_rows=reading.bad_rows,
        say=say,
    )


def with_room(settings: Writing, context: int) -> DataSettings:
    """How prompts are read so that each leaves room for a response.

    Raises:
        ValueError: if the context has no room for both.
    """
    reading, most = settings.reading, context - settings.max_new_tokens
    if most < 1:
        raise ValueError(
            f"--max-new-tokens is {settings.max_new_tokens}, and the model's context holds "
            f"{context} tokens with the prompt in it; lower it."
        )
    if reading.max_length is not None:
        raise ValueError(
            f"--reading.max-length is {reading.max_length}, and what counts here is the prompt "
            "alone: give --reading.max-prompt-length and --max-new-tokens."
        )
    asked = reading.max_prompt_length
    if asked is not None and asked > most:
        raise ValueError(
            f"--reading.max-prompt-length is {asked}, and beside --max-new-tokens "
            f"{settings.max_new_tokens} the model's context of {context} tokens has room for "
            f"{most}: lower one of them."
        )
    return replace(reading, max_prompt_length=asked or most)


def load_policy(folder: Path, settings: Writing) -> Decoder:
    """The model on the devices there are."""
    dtype = arithmetic(settings.dtype)
    return load_decoder(
        str(folder),
        dtype=dtype,
        param_dtype=dtype,
        mesh=make_mesh() if jax.device_count() > 1 else None,
        unroll=unrolled(read_architecture(folder).layers),
    )


def written_before(out: Path, record: dict[str, Any]) -> int:
    """How many prompts an output file holds the answers to; a line cut off by a kill is dropped.

    Args:
        out: the file.
        record: what it has to have been written with; noted beside it if it does not exist.

    Raises:
        ValueError: if it was written otherwise, or by something else; names what differs.
    """
    note = out.with_name(out.name + NOTE)
    if not out.exists():
        note.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        out.touch()
        return 0
    remedy = "delete it, or give another --out"
    if not note.exists():
        raise ValueError(f"{out} exists, and not from this command: {remedy}.")
    before = json.loads(note.read_text(encoding="utf-8"))
    if before != record:
        then, now = flat(before), flat(record)
        changed = [name for name in now if then.get(name) != now[name]]
        raise ValueError(
            f"{out} was written with another {', '.join(changed)}: go on as it began, {remedy}."
        )
    data = out.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with out.open("rb+") as file:
            file.truncate(whole)
    return data.count(b"\n")


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """A note with its settings beside the rest."""
    settings = record.get("settings", {})
    return {name: value for name, value in record.items() if name != "settings"} | settings


@dataclass(frozen=True, eq=False)
class Answers:
    """Turns prompts into lines of the file.

    Attributes:
        decoder: who answers.
        tokenizer: of it.
        settings: how.
        stop: tokens that end an answer.
        reward: what the answers are worth; None where nobody asks.
    """

    decoder: Decoder
    tokenizer: Any
    settings: Writing
    stop: tuple[int, ...]
    reward: Reward | None

    def __call__(
        self, groups: Sequence[Group], examples: Sequence[Example], first: int
    ) -> Iterator[dict[str, Any]]:
        """Lines for some prompts, the number of whose first is given."""
        prompts = [group.prompt for group in groups]
        written = sample(
            self.decoder,
            prompts,
            self.settings.sampling(self.stop),
            prompt_ids=range(first, first + len(groups)),
            rows=self.settings.rows,
            decode=self.text,
        )
        rewards = [None] * len(groups)
        if self.reward is not None:
            pairs = zip(prompts, written, strict=True)
            rewards = self.reward([self.as_written(*pair) for pair in pairs])
        for prompt, example, samples, worth in zip(
            prompts, examples, written, rewards, strict=True
        ):
            line: dict[str, Any] = {
                "prompt": example.prompt,
                "responses": [self.response(prompt, s) for s in samples],
            }
            if worth is not None:
                line["rewards"] = [float(value) for value in worth]
            line["finished"] = [s.finished for s in samples]
            if self.settings.logp:
                # To the digits that do not depend on what a response was batched with.
                line["logp"] = [round(float(s.logp.sum(dtype=np.float64)), 3) for s in samples]
            yield line

    def as_written(self, prompt: Int[np.ndarray, " S"], samples: Sequence[Sample]) -> list[Written]:
        """What the reward reads, the same as in training."""
        asked = prompt_text(self.tokenizer, prompt.tolist())
        return [Written(asked, self.response(prompt, s), s.tokens, s.finished) for s in samples]

    def response(self, prompt: Int[np.ndarray, " S"], written: Sample) -> str:
        """What the tokens add to the prompt's text, without what ends it."""
        said = written.tokens.tolist()
        return response_text(self.tokenizer, prompt.tolist(), said, self.stop)

    def text(self, tokens: list[int]) -> str:
        """Tokens as text, without those that only mark beginnings and ends."""
        return self.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
