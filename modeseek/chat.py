"""``modeseek chat``: talk with a model, or let it continue a text, to see what training did."""

import dataclasses
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape

from modeseek.terminal import harmless
from modeseek.train import quiet

SEGMENT = 8
"""Tokens between two looks at the screen: a program call each, so not one by one."""

LONGEST = 200
"""Tokens of an answer unless told otherwise."""

SPARE = 4
"""Bytes of the longest UTF-8 character, and so the most tokens one can be spread over."""

HELP = "/reset forgets the conversation, /quit (or Ctrl-D) ends it, Ctrl-C stops an answer."

Message = dict[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chat:
    """Talk with a model in the terminal; each line of a pipe is a turn too."""

    model: Annotated[str | None, tyro.conf.Positional] = None
    """Hub name or folder of a Hugging Face model; the embedded one when not given."""
    temperature: float = 0.8
    """Divides the logits; 0 takes the likeliest token every time."""
    top_k: int = 0
    """Draw among the k likeliest tokens; 0 for all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together reach this probability."""
    max_new_tokens: int | None = None
    """An answer is cut after this many tokens; 200, or half the context, when not given."""
    seed: int = 0
    """Root of all randomness; the same lines get the same answers."""
    system: str | None = None
    """What the model is told before the conversation; needs a chat template."""
    plain: bool = False
    """Continue each line as a text, without a chat template and without memory."""


def main(arguments: list[str]) -> None:
    """Parse the line and do it."""
    quiet()
    options = tyro.cli(Chat, args=arguments, prog="modeseek chat")
    console = Console(highlight=False, soft_wrap=True)
    conversation = begin(options, console)
    if sys.stdin.isatty():
        how = "" if conversation.template else "It continues what you write. "
        console.print(f"[dim]{how}{HELP}[/]")
    talk(conversation, lines(console), console, patient=sys.stdin.isatty())


def lines(console: Console) -> Iterator[str]:
    """What the user says, until Ctrl-D or the end of the pipe; a prompt sign in a terminal."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    while True:
        try:
            yield console.input("[bold cyan]>[/] ")
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            # At the prompt Ctrl-C drops the line, as in a shell.
            console.print()


def talk(
    conversation: "Conversation", said: Iterable[str], console: Console, *, patient: bool
) -> None:
    """Answer line after line.

    Args:
        conversation: with a model.
        said: by the user.
        console: where the answers go, as they come.
        patient: whether a line that cannot be answered, or an answer that is stopped, is followed
            by the next line; a person can go on, a pipe should end.
    """
    for line in said:
        if line.strip() == "/quit":
            return
        if line.strip() == "/reset":
            conversation.turns = []
            console.print("[dim]The conversation starts again.[/]")
            continue
        if not line.strip():
            continue
        try:
            with closing(conversation.answer(line)) as pieces:
                for piece in pieces:
                    print(harmless(piece), end="", flush=True, file=console.file)
            console.print()
        except KeyboardInterrupt:
            console.print(" [dim](stopped)[/]")
            if not patient:
                raise
        except ValueError as error:
            if not patient:
                raise
            console.print(f"[red]{escape(str(error))}[/]")


def begin(options: Chat, console: Console) -> "Conversation":
    """Check what was asked for, then load the model."""
    from llm.checkpoints.folders import find_model, read_architecture
    from llm.checkpoints.read import load_decoder
    from llm.inputs import read_tokenizer
    from llm.loading import arithmetic, unrolled
    from llm.sampler import Sampling, stop_tokens

    folder = embedded(console) if options.model is None else find_model(options.model)
    architecture = read_architecture(folder)
    context = architecture.max_positions
    tokenizer = read_tokenizer(folder)
    sampling = Sampling(
        max_new_tokens=(
            min(LONGEST, context // 2) if options.max_new_tokens is None else options.max_new_tokens
        ),
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        stop=stop_tokens(folder, tokenizer.eos_token_id),
    )
    template = not options.plain and bool(tokenizer.chat_template)
    if options.system is not None and not template:
        reason = "--plain uses none" if options.plain else "this model's tokenizer has none"
        raise ValueError(f"--system needs a chat template, and {reason}; leave it out.")
    if sampling.max_new_tokens >= context:
        raise ValueError(
            f"--max-new-tokens is {sampling.max_new_tokens}, and the model's context holds "
            f"{context} tokens with the question in it; lower it."
        )
    dtype, unroll = arithmetic(), unrolled(architecture.layers)
    with console.status(f"loading {folder}"):
        decoder = load_decoder(str(folder), dtype=dtype, param_dtype=dtype, unroll=unroll)
    return Conversation(decoder, tokenizer, sampling, template, options.system, console.print)


@dataclasses.dataclass
class Conversation:
    """A model, and what was said so far.

    Attributes:
        decoder: the model.
        tokenizer: of the model.
        sampling: how answers are drawn.
        template: whether turns are written by a chat template; else each line is a text to
            continue.
        system: what stands before the first turn, or None.
        note: told, in a sentence, what the user should know.
        turns: of both sides, as chat messages.
        asked: questions so far, which gives each answer random numbers of its own.
    """

    decoder: Any
    tokenizer: Any
    sampling: Any
    template: bool
    system: str | None
    note: Callable[[str], None]
    turns: list[Message] = dataclasses.field(default_factory=list)
    asked: int = 0

    def answer(self, line: str) -> Generator[str]:
        """Say something; yields the answer in pieces of whole characters.

        Raises:
            ValueError: if the line alone is more than the model's context holds.
        """
        from llm.sampler import stream

        prompt = self.prompt(line)
        self.asked += 1
        said, tokens = "", []
        pieces = stream(self.decoder, prompt, self.sampling, prompt_id=self.asked, segment=SEGMENT)
        try:
            for new in pieces:
                # Not every tokenizer counts every token that ends a turn among the special ones.
                tokens += [token for token in new.tolist() if token not in self.sampling.stop]
                piece = whole_characters(self.text(prompt, tokens))[len(said) :]
                said += piece
                yield piece
            rest = self.text(prompt, tokens)[len(said) :]
            said += rest
            yield rest
        finally:
            # An answer that was stopped is part of the conversation as far as it went.
            self.turns.append({"role": "assistant", "content": said})

    def prompt(self, line: str) -> np.ndarray:
        """The line and what was said before as token ids; what no longer fits is forgotten."""
        room = self.decoder.architecture.max_positions - self.sampling.max_new_tokens
        before = self.turns if self.template else []
        turns = [*before, {"role": "user", "content": line}]
        first = 0
        while len(tokens := self.encode(turns[first:])) > room:
            # A question goes with its answer, because templates insist that turns alternate.
            first += 2
            if first >= len(turns):
                raise ValueError(
                    f"The line takes {len(tokens)} tokens, and the model's context has room for "
                    f"{room} beside --max-new-tokens {self.sampling.max_new_tokens}; say less, or "
                    "lower that."
                )
        if not tokens:
            raise ValueError("The line has no tokens; say more.")
        if first:
            self.note(f"[dim](the oldest {first} turns no longer fit and are forgotten)[/]")
        self.turns = turns[first:]
        return np.asarray(tokens, np.int32)

    def encode(self, turns: Sequence[Message]) -> list[int]:
        """Turns as the model reads them."""
        if not self.template:
            tokens = list(self.tokenizer(turns[-1]["content"])["input_ids"])
            # What a tokenizer appends would end the text before its continuation.
            while tokens and tokens[-1] == self.tokenizer.eos_token_id:
                tokens.pop()
            return tokens
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        try:
            text = self.tokenizer.apply_chat_template(
                [*before, *turns], tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # Jinja's, or whatever the template itself raises
            raise ValueError(f"The model's chat template refuses the turns: {error}.") from None
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, prompt: np.ndarray, tokens: list[int]) -> str:
        """What tokens say after a prompt: the space before a first word is the prompt's matter."""
        last = prompt[-SPARE:].tolist()
        before, both = (
            self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for ids in (last, last + tokens)
        )
        return both[len(before) :]


def whole_characters(text: str) -> str:
    """A text without the replacement signs at its end: characters whose last bytes are to come."""
    end = len(text)
    while end and text[end - 1] == "\ufffd" and len(text) - end < SPARE:
        end -= 1
    return text[:end]


def embedded(console: Console) -> Any:
    """Folder of the embedded model, made on its first use."""
    from llm.embedded.pretrain import embedded_model

    return embedded_model(console.print)
