"""Prompts a model is never trained on, chosen by what they say.

A share of the rows is not held out if the same prompt stands in another row. So prompts are drawn,
not rows, and by a hash of their tokens: the choice survives another order of the rows, and all
responses to one prompt fall on one side.
"""

import hashlib
from collections.abc import Sequence

from llm.data.examples import Group


def hold_out(groups: Sequence[Group], share: float, seed: int) -> tuple[list[Group], list[Group]]:
    """Divide groups into those to train on and those to judge by.

    Args:
        groups: the data set.
        share: of the distinct prompts (of the texts, where there is no prompt), to hold out.
        seed: another seed holds out others.

    Returns:
        Groups to train on and groups held out, each in the order they had. Where there is a share
        at all and more than one prompt, both sides have one at least.

    Raises:
        ValueError: if there is one prompt only, so that nothing can be held out.
    """
    if share == 0:
        return list(groups), []
    keys = [key(group, seed) for group in groups]
    distinct = sorted(set(keys))
    if len(distinct) < 2:
        raise ValueError(
            "the data hold one prompt only, so none can be held out; pass --reading.eval-share 0 "
            "or --reading.eval-source."
        )
    many = min(max(round(share * len(distinct)), 1), len(distinct) - 1)
    held = set(distinct[:many])
    train = [group for group, name in zip(groups, keys, strict=True) if name not in held]
    return train, [group for group, name in zip(groups, keys, strict=True) if name in held]


def key(group: Group, seed: int) -> bytes:
    """A hash of a prompt. One that says nothing (at most BOS) stands for its response, if any."""
    said = group.prompt if len(group.prompt) > 1 or not group.responses else group.responses[0]
    return hashlib.sha256(seed.to_bytes(8, "little", signed=True) + said.tobytes()).digest()
