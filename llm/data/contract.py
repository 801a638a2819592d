"""What tokenized data must satisfy before a model is trained on them.

Most of what goes wrong in preference tuning goes wrong here and never raises an error: BOS twice, a
response without the EOS that would teach the model to stop, a prompt whose latest turn was cut off,
a pair of identical responses one of which is called better, ids of another model's vocabulary. The
loss falls all the same. So every group is checked, and all that is found is said at once.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from llm.data.examples import Example, Group

SHOWN = 10
TAIL = 8
"""Tokens at the end of a prompt that are compared with its text."""

REMEDIES = {
    "no prompt": "give the row something to answer",
    "no response": "an offline recipe learns from responses: use data that hold them, or an online "
    "recipe, which answers prompts itself",
    "empty response": "give it text",
    "nothing to score": "give the row a prompt, or a longer response",
    "double BOS": "take the BOS out of the text or of the chat template; the tokenizer adds one",
    "BOS in a response": "take it out of the text; a response continues its prompt",
    "EOS inside a response": "take it out of the text; EOS is appended",
    "missing EOS": "use a chat template that ends the turn, and a tokenizer with an EOS token",
    "lost prompt tail": "switch off the truncation in the tokenizer's own files",
    "identical responses": "no response can be better than itself: keep one, or rate both alike",
    "rating not finite": "give every response a number",
    "too long": "raise --reading.max-length, or let --reading.truncate cut",
    "no pair": "this recipe compares responses: use data with two per prompt, or sft or kto",
    "unknown token": "the tokenizer does not belong to the model: take both from one folder",
}
"""Everything that is looked for, and what to do about it."""

OF_THE_RUN = ("no response", "no pair", "unknown token", "missing EOS")
"""Findings about how data, model and recipe fit: leaving out rows does not mend them."""


class Finding(NamedTuple):
    """A row that breaks the contract: which rule, where, and the particulars."""

    kind: str
    where: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a model and a recipe ask of data.

    Attributes:
        eos: id of the token that ends a response.
        bos: id of the token that begins a text; None if the tokenizer has none.
        vocab_size: ids of the model are below this; None if there is no model.
        max_length: most tokens of a prompt with one response; None if there is no limit.
        pairs: whether the recipe compares the responses to a prompt.
        prompts_only: whether the model writes the responses itself, so that there are none.
    """

    eos: int
    bos: int | None = None
    vocab_size: int | None = None
    max_length: int | None = None
    pairs: bool = False
    prompts_only: bool = False


def examine(
    example: Example, group: Group, contract: Contract, tokenizer: Any = None
) -> list[Finding]:
    """Hold one group to the contract.

    Args:
        example: what it was made from.
        group: prompt and responses as ids.
        contract: what is asked.
        tokenizer: reads the end of a text prompt back, to see that it is still there.
    """
    found: list[tuple[str, str]] = []
    bos = contract.bos if contract.bos != contract.eos else None
    if contract.bos is not None and group.prompt[:2].tolist() == [contract.bos] * 2:
        found.append(("double BOS", "the prompt begins with it twice"))
    if tokenizer is not None and lost_tail(example, group, tokenizer):
        found.append(("lost prompt tail", "the end of the prompt's text is not in its tokens"))
    for number, (written, ids) in enumerate(
        zip(example.responses, group.responses, strict=True), start=1
    ):
        name = f"response {number} of {len(group.responses)}"
        whole = len(group.prompt) + len(ids)
        if not (written if isinstance(written, str) else content(written)).strip():
            found.append(("empty response", f"{name} is blank"))
        elif len(ids) < 2 and not len(group.prompt):
            found.append(("nothing to score", f"{name} has one token and no prompt"))
        if (ids[:-1] == contract.eos).any():
            found.append(("EOS inside a response", f"{name} has it before its end"))
        if bos is not None and (ids == bos).any():
            found.append(("BOS in a response", name))
        if not group.cut_responses and ids[-1:].tolist() != [contract.eos]:
            found.append(("missing EOS", f"{name} does not end"))
        if contract.max_length is not None and whole > contract.max_length:
            found.append(("too long", f"{name} with its prompt has {whole} tokens"))
    found += alone(group, contract) if contract.prompts_only else compared(group, contract)
    found += unknown(group, contract)
    return [Finding(kind, group.where, detail) for kind, detail in found]


def alone(group: Group, contract: Contract) -> list[tuple[str, str]]:
    """Findings about a prompt that the model itself shall answer."""
    size = len(group.prompt)
    if not size:
        return [("no prompt", "it is empty")]
    if contract.max_length is not None and size >= contract.max_length:
        return [("too long", f"the prompt has {size} tokens, which leaves no room for an answer")]
    return []


def compared(group: Group, contract: Contract) -> list[tuple[str, str]]:
    """Findings about the responses of a group as a whole."""
    if not group.responses:
        return [("no response", "there is a prompt alone")]
    found = []
    ratings: dict[bytes, float] = {}
    for ids, reward in zip(group.responses, group.rewards.tolist(), strict=True):
        key = ids.tobytes()
        if key in ratings and ratings[key] != reward:
            detail = f"they are rated {ratings[key]:g} and {reward:g}"
            found.append(("identical responses", detail))
        ratings[key] = reward
    if not np.isfinite(group.rewards).all():
        found.append(("rating not finite", f"ratings are {group.rewards.tolist()}"))
    if contract.pairs and len(group.responses) < 2:
        found.append(("no pair", "there is one response"))
    return found


def unknown(group: Group, contract: Contract) -> list[tuple[str, str]]:
    """A finding for ids that the model has no embedding of."""
    if contract.vocab_size is None:
        return []
    highest = max(int(ids.max(initial=0)) for ids in (group.prompt, *group.responses))
    if highest < contract.vocab_size:
        return []
    return [("unknown token", f"id {highest}, but the model knows {contract.vocab_size} tokens")]


def content(turns: Iterable[dict[str, Any]]) -> str:
    """What messages say."""
    return "".join(turn["content"] for turn in turns)


def lost_tail(example: Example, group: Group, tokenizer: Any) -> bool:
    """Whether the last tokens of a text prompt say something else than its end."""
    ids = group.prompt[-TAIL:].tolist()
    while tokenizer.bos_token_id in ids:  # the tokenizer's, or a turn's end that the text spells
        ids = ids[ids.index(tokenizer.bos_token_id) + 1 :]
    if not isinstance(example.prompt, str) or tokenizer.unk_token_id in ids:
        return False
    # The first of these tokens may be the second half of a character.
    said = tokenizer.decode(ids, clean_up_tokenization_spaces=False).lstrip("\ufffd")
    return not letters(example.prompt).endswith(letters(said))


def letters(text: str) -> str:
    """Text without what a tokenizer may normalise away: space, case, kinds of one character."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def enforce(findings: Sequence[Sequence[Finding]], drop: bool) -> list[int]:
    """Refuse what breaks the contract, or say which rows to keep.

    Args:
        findings: of each group.
        drop: whether rows may be left out.

    Returns:
        Which groups have no finding.

    Raises:
        ValueError: one message for everything, with the first findings and what to do about each
            kind; also if no row would be left.
    """
    kept = [number for number, found in enumerate(findings) if not found]
    every = [finding for found in findings for finding in found]
    fatal = [f for f in every if not (drop and kept) or f.kind in OF_THE_RUN]
    if not fatal:
        return kept
    kinds = Counter(finding.kind for finding in fatal)
    lines = [f"{where}: {kind}: {detail}." for kind, where, detail in fatal[:SHOWN]]
    if len(fatal) > SHOWN:
        lines.append(f"... and {len(fatal) - SHOWN} more.")
    lines += [f"{kind} ({many}): {REMEDIES[kind]}." for kind, many in kinds.most_common()]
    if kept and not drop and not set(kinds) & set(OF_THE_RUN):
        lines.append("Or leave these rows out with --reading.bad-rows drop.")
    raise ValueError(
        f"{len(findings) - len(kept)} of {len(findings)} rows break the data contract:\n"
        + "\n".join(lines)
    )


@dataclass(frozen=True)
class Summary:
    """What is worth knowing about data that pass.

    Attributes:
        groups: prompts.
        responses: over all groups.
        tokens: prompts counted once.
        scored: tokens of responses.
        shortened_prompts: prompts that lost their oldest tokens.
        cut_responses: responses that lost their end.
        repeated: groups that are another one token by token.
        undecided: groups whose responses are all rated alike, though there are several.
    """

    groups: int
    responses: int
    tokens: int
    scored: int
    shortened_prompts: int
    cut_responses: int
    repeated: int
    undecided: int

    def sentences(self) -> list[str]:
        """The counts, and a warning for each that is not zero."""
        counts = f"{self.groups:,} prompts, {self.responses:,} responses, {self.tokens:,} tokens"
        alone = f"{self.groups:,} prompts to answer, {self.tokens:,} tokens"
        lines = [f"{counts}, of which {self.scored:,} are scored" if self.responses else alone]
        for many, of, what in (
            (self.shortened_prompts, self.groups, "prompts lost their oldest tokens"),
            (self.cut_responses, self.responses, "responses lost their end and EOS"),
            (self.repeated, self.groups, "groups repeat another one"),
            (self.undecided, self.groups, "groups prefer no response"),
        ):
            if many:
                lines.append(f"{many:,} {what} ({many / of:.1%})")
        return lines


def summarise(groups: Sequence[Group]) -> Summary:
    """Count what ``Summary`` holds."""
    same = Counter(
        (group.prompt.tobytes(), *(ids.tobytes() for ids in group.responses)) for group in groups
    )
    undecided = [len(g.rewards) > 1 and bool((g.rewards == g.rewards[0]).all()) for g in groups]
    return Summary(
        groups=len(groups),
        responses=sum(len(group.responses) for group in groups),
        tokens=sum(group.length for group in groups),
        scored=sum(group.scored for group in groups),
        shortened_prompts=sum(group.lost_prompt > 0 for group in groups),
        cut_responses=sum(group.cut_responses for group in groups),
        repeated=len(groups) - len(same),
        undecided=sum(undecided),
    )
