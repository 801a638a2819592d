"""Texts that end a response, found in its tokens.

A text may be spread over tokens in many ways, and a token may hold the end of one word and the
beginning of the next. So what is searched is the text of the tokens so far, and the response ends
with the token whose text completes what was looked for.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

Decode = Callable[[list[int]], str]
"""From token ids to their text; that of more tokens must go on where that of fewer ended, but for
a character whose last bytes are to come."""


def completed(
    tokens: Int[np.ndarray, " T"],
    strings: Sequence[str],
    decode: Decode,
    *,
    seen: int = 0,
    least: int = 0,
) -> int | None:
    """How many tokens complete the first of the texts that occur; None if none does.

    Args:
        tokens: of a response.
        strings: what to look for.
        decode: gives their text.
        seen: tokens that are known to complete none.
        least: a text that these tokens already hold does not count.
    """
    ids = tokens.tolist()
    before = len(decode(ids[:least])) if least else 0

    def holds(size: int) -> bool:
        text = decode(ids[:size])
        return any(s in text[max(before - len(s) + 1, 0) :] for s in strings)

    if len(ids) <= max(seen, least) or not holds(len(ids)):
        return None
    return next(size for size in range(max(seen, least) + 1, len(ids) + 1) if holds(size))
