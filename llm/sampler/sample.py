"""Writing responses: read every prompt once, then draw one token at a time for all of them.

A prompt is read in one pass, what its tokens left in the cache is copied for each of its responses,
and from there every step adds one token to every row that has not ended. Every few steps the rows
that have ended are looked at, and once most of them have, the others go on alone. Each draw has a
key of its own, made from (seed, prompt, response, position) and from nothing else, so a response
does not depend on what it was batched with, on padding, or on the order of the prompts (float
rounding differs between shapes, so a draw may move that falls within it of a boundary). The
log-probability that comes with a token is that of the distribution it was really drawn from, after
temperature and truncation: what an importance weight has to divide by.

Key to the axes: B prompts, R rows, T new tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from jaxtyping import Float32, Int32

from llm.hosts import fetch, repeat
from llm.model import Decoder
from llm.sampler.draft import Draft, Stops, begin, grow, keep, write
from llm.sampler.settings import Prompt, Sampling, check
from llm.sampler.sizes import ROWS, SEGMENT, at_once, between_looks, lay_out, rooms, row_sizes
from llm.sampler.strings import Decode, completed
from llm.sampler.weights import ready


class Sample(NamedTuple):
    """One response.

    Attributes:
        tokens: with the stop token that ended it, if one did.
        logp: of each token under the distribution it was drawn from, nats; 0 at temperature 0,
            where nothing else could be drawn.
        model_logp: of each token under the model itself, at temperature 1 and without truncation,
            nats; where the rule is just that, the same numbers.
        finished: False if it was cut by the limit.
    """

    tokens: Int32[np.ndarray, " T"]
    logp: Float32[np.ndarray, " T"]
    model_logp: Float32[np.ndarray, " T"]
    finished: bool

    def cut(self, length: int) -> "Sample":
        """What a limit of so many tokens would have left of it."""
        if length >= len(self.tokens):
            return self
        short = (values[:length] for values in (self.tokens, self.logp, self.model_logp))
        return Sample(*short, finished=False)


def sample(
    decoder: Decoder,
    prompts: Sequence[Prompt],
    settings: Sampling,
    *,
    prompt_ids: Sequence[int] | None = None,
    rows: int = ROWS,
    decode: Decode | None = None,
    gather: bool = True,
) -> list[list[Sample]]:
    """Write responses to prompts.

    Args:
        decoder: the policy.
        prompts: token ids.
        settings: how many responses, how long, how random.
        prompt_ids: what tells the prompts apart in the random keys; 0, 1, ... when None.
        rows: most responses written side by side, for the memory their caches take.
        decode: text of token ids, for stop strings.
        gather: as in ``ready``.

    Returns:
        The responses of every prompt, in the order of the prompts.

    Raises:
        ValueError: if a prompt is empty, leaves no room for the response, or holds a token that
            the model does not have, if there are stop strings and no ``decode``, or if the model's
            logits are not finite.
    """
    ids = range(len(prompts)) if prompt_ids is None else prompt_ids
    if len(ids) != len(prompts) or not all(0 <= number < 2**32 for number in ids):
        raise ValueError(
            f"prompt_ids has {len(ids)} numbers for {len(prompts)} prompts; give one for each, "
            "from 0 to 2**32 - 1."
        )
    check(decoder, prompts, settings)
    decoder = ready(decoder, gather=gather)
    responses: list[list[Sample]] = [[] for _ in prompts]
    # Prompts of similar length share a batch, and full batches share a shape.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    together, N = at_once(rows, settings.responses), settings.responses
    tokens = between_looks(settings)
    for start in range(0, len(order), together):
        chosen = order[start : start + together]
        batch = [prompts[index] for index in chosen], [ids[index] for index in chosen]
        written: dict[int, Sample] = {}
        for look in looks(decoder, *batch, settings, segment=tokens, decode=decode):
            written.update(look)
        for place, index in enumerate(chosen):
            responses[index] = [written[place * N + n] for n in range(N)]
    return responses


def stream(
    decoder: Decoder,
    prompt: Prompt,
    settings: Sampling,
    *,
    prompt_id: int = 0,
    segment: int = SEGMENT,
    decode: Decode | None = None,
) -> Iterator[Int32[np.ndarray, " new"]]:
    """Write one response and hand it over a few tokens at a time; the tokens are ``sample``'s.

    Args:
        decoder: the policy.
        prompt: token ids.
        settings: how long, how random; ``responses`` is not read.
        prompt_id: as in ``sample``.
        segment: tokens at a time, at most.
        decode: text of token ids, for stop strings.

    Yields:
        The tokens since the last time, the stop token included.

    Raises:
        ValueError: as ``sample``.
    """
    check(decoder, [prompt], settings)
    decoder = ready(decoder)
    shown, one = 0, replace(settings, responses=1)
    for look in looks(decoder, [prompt], [prompt_id], one, segment=segment, decode=decode):
        yield look[0].tokens[shown:]
        shown = len(look[0].tokens)


def looks(
    decoder: Decoder,
    prompts: Sequence[Prompt],
    ids: Sequence[int],
    settings: Sampling,
    *,
    segment: int,
    decode: Decode | None = None,
) -> Iterator[dict[int, Sample]]:
    """Write responses to the prompts of one batch, and look at them every few tokens.

    Args:
        decoder: the policy.
        prompts: token ids; all of them are written for side by side.
        ids: what tells them apart in the random keys.
        settings: how many responses, how long, how random.
        segment: tokens between two looks.
        decode: text of token ids, for stop strings.

    Yields:
        Every response that had not ended at the last look, as far as it is written; the responses
        of the first prompt are 0 to N - 1.

    Raises:
        ValueError: as ``sample``.
    """
    strings, N = settings.stop_strings, settings.responses
    if strings and decode is None:
        raise ValueError(
            f"stop_strings is {strings}, and a text can only be looked for with the tokenizer's "
            "decode; pass it."
        )
    graphdef, weights = nnx.split(decoder)

    def put(values: Any) -> Any:
        # Explicit transfers, because training forbids the others.
        return repeat(values, decoder.mesh)

    inputs = put((*lay_out(prompts, ids), np.uint32(settings.seed)))
    spaces = rooms(settings.max_new_tokens)
    draft = begin(graphdef, weights, *inputs, responses=N, room=spaces[0])
    stop, least = np.asarray(settings.stop, np.int32), settings.min_new_tokens
    # Which response each row of the draft is, and which rows are still being written.
    name = np.arange(draft.done.size)
    going, written = name < len(prompts) * N, 0
    while going.any() and written < spaces[-1]:
        for size in row_sizes(len(name))[1:]:
            if going.sum() <= size:
                chosen = np.argsort(~going, kind="stable")[:size]
                draft = keep(draft, put(chosen.astype(np.int32)))
                name, going = name[chosen], going[chosen]
        room = draft.tokens.shape[1]
        if written == room:
            room = spaces[spaces.index(room) + 1]
            draft = grow(draft, slots=room - written)
        before, written = written, min(written + segment, room)
        ends = Stops(*put((stop, np.int32(least), np.int32(written))))
        draft = write(graphdef, weights, draft, ends, rule=settings.rule)
        look = {row: part for row, part in enumerate(collect(draft)) if going[row]}
        if decode is not None and strings:
            for row, part in look.items():
                end = completed(part.tokens, strings, decode, seen=before, least=least)
                if end is not None:
                    look[row] = part.cut(end)._replace(finished=True)
            ended = [row in look and look[row].finished for row in range(len(name))]
            draft = draft._replace(done=put(~going | np.array(ended)))
        yield {int(name[row]): part for row, part in look.items()}
        going &= np.array([row in look and not look[row].finished for row in range(len(name))])


def collect(draft: Draft) -> list[Sample]:
    """The responses on the host as far as they are, one per row; a padding row's is empty."""
    tokens, logp, own, length, done = fetch(
        (draft.tokens, draft.logp, draft.model_logp, draft.length, draft.done)
    )
    if not np.isfinite(logp).all():
        raise ValueError(
            "the model's logits are not finite, so nothing can be drawn from them; its weights "
            "are broken, or its numbers too large for the dtype."
        )
    return [
        Sample(*(x[row, :size].copy() for x in (tokens, logp, own)), finished=bool(done[row]))
        for row, size in enumerate(length)
    ]
