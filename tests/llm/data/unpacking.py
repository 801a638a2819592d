"""Groups read back from a batch, which only tests have a use for."""

import numpy as np
from jaxtyping import Int32

from llm.data.packing import Batch

Ids = Int32[np.ndarray, "_"]


def unpack(batch: Batch) -> list[tuple[Ids, list[Ids]]]:
    """Read the groups back from a batch, by its layout alone.

    Args:
        batch: as ``pack`` made it, with prompts shared or not.

    Returns:
        Prompt and responses of each group, in the order of [B, N, T]. A response of which nothing
        is scored comes back as its last token.
    """
    tokens = np.asarray(batch.tokens)
    segments, branches = np.asarray(batch.segments), np.asarray(batch.branches)
    groups = []
    for b in np.flatnonzero(np.asarray(batch.example) >= 0):
        responses, prompt = [], tokens[0, :0]
        for n in np.flatnonzero(np.asarray(batch.valid)[b]):
            row, end = divmod(int(batch.last[b, n]), tokens.shape[1])
            length = int(np.flatnonzero(np.asarray(batch.mask)[b, n]).max(initial=0)) + 1
            start = end + 1 - length
            responses.append(tokens[row, start : end + 1])
            own = (segments[row] == segments[row, end]) & (branches[row] == 0)
            prompt = tokens[row, :start][own[:start]]
        groups.append((prompt, responses))
    return groups
