"""Responses to be rewarded, and a run to be rewarded in."""

from pathlib import Path
from typing import Any

import numpy as np

from llm.rewards import Reward, RewardContext, RewardSettings, Written, read_reward
from tests.llm.data.byte_tokenizer import make_tokenizer

TOKENIZER = make_tokenizer()
END = int(TOKENIZER.eos_token_id)


def written(response: str, prompt: str = "Q?\n", finished: bool = True) -> Written:
    """A response in bytes, with its stop token if it has finished."""
    ids = TOKENIZER(response, add_special_tokens=False)["input_ids"]
    tokens = np.array([*ids, END] if finished else ids, np.int32)
    return Written(prompt, response, tokens, finished)


def groups(*responses: list[str], prompts: tuple[str, ...] = ()) -> list[list[Written]]:
    """Responses to some prompts."""
    asked = prompts or tuple(f"Q{number}?\n" for number in range(len(responses)))
    return [
        [written(text, prompt) for text in r] for r, prompt in zip(responses, asked, strict=True)
    ]


def context(
    folder: Path, said: list[str] | None = None, tokenizer: Any = TOKENIZER
) -> RewardContext:
    """A run that keeps answers in a folder."""
    heard: list[str] = [] if said is None else said
    return RewardContext(lambda: tokenizer, folder, heard.append)


def reward(spec: str, folder: Path = Path("unused"), **settings: Any) -> Reward:
    """A reward by its spec."""
    return read_reward(spec, RewardSettings(**settings), context(folder))


def numbers(spec: str, *responses: str, folder: Path = Path("unused")) -> list[float]:
    """What a reward says of responses to one prompt."""
    (found,) = reward(spec, folder)([[written(text) for text in responses]])
    assert found.dtype == np.float64
    return found.tolist()
