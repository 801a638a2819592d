"""Summaries of forum posts with Pythia-1B: does asking about sure pairs save labels?

Question: as in ``active_imdb``, where a response is a summary and a person's summary is to be
beaten. Command: ``python -m experiments.llm.full_scale.active_tldr certainty``, or another
acquisition function; ``--dry-run`` prints the plan, ``--rehearse`` walks through it in small.
Hardware and time: as the plan says; one device of 80 GB. Numbers to expect, the authors', means
over 9 seeds: a win rate against people's summaries of 0.394 for the initial model, and then, at
128, 256, 384 and 512 labels, of 0.510, 0.551, 0.551 and 0.561 for ``random``; 0.524, 0.562, 0.585
and 0.600 for ``certainty``; 0.511, 0.566, 0.559 and 0.581 for ``entropy``; 0.529, 0.546, 0.593 and
0.592 for ``hybrid``.

The judge, and how to give another, is as in ``active_imdb``; so is what to do about weights that
are a pickle. Posts of strangers are sent to it. The model is the one of the authors' scripts, with
one billion parameters; what is written about their paper at times says 1.4.

Source: Muldrew et al. 2024, arXiv:2402.08114; sh/run-tldr2-runpod.sh of the authors' repository
    willmuldrew/active-preference-learning, branch ``sub`` at 998f5d5.
Differs: as ``active_imdb`` does, but that there is no dropout in this model, and the contest before
        the first round is theirs too (m = 0).
    People's summaries are written as the model was trained to write: after one space, without white
        space at the end. Rows without a summary are left out.
    Of the first round's pairs no more are written than are labelled; theirs writes 2,048.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from experiments.llm.full_scale.active_imdb import SETTINGS as IMDB
from experiments.llm.full_scale.campaign import Study, main, text_of
from experiments.llm.full_scale.campaign_plan import Prompts
from llm.active import PoolSettings
from llm.data.examples import PackingSettings
from llm.data.sources import Row
from llm.rewards.settings import JudgeSettings, RewardSettings
from llm.settings import SamplingSettings

MODEL, DATA = "pvduy/pythia-1B-sft-summarize-tldr", "CarperAI/openai_summarize_tldr"

PYTHIA_1B = {
    "model_type": "gpt_neox",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 8,
    "num_hidden_layers": 16,
    "max_position_embeddings": 2048,
    "vocab_size": 50304,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
    "hidden_act": "gelu",
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
}

CRITERION = (
    "Each response is meant as a summary of the same forum post. Which tells better what matters "
    "most in the post, and leaves out what does not?"
)

SHORTER, LONGER = 200, 1000
"""A post has more characters than the first and fewer than the second."""
LEFT_OUT = ("offmychest", "tifu")
"""Forums whose posts are not sent to anybody."""
MOST = 128
"""Tokens of a response."""

SETTINGS = replace(
    IMDB,
    model=MODEL,
    rounds=4,
    labels=128,
    epochs=70.0,
    pool=PoolSettings(pairs=16, prompts=4, samples=8, temperature=0.7),
    contest=replace(IMDB.contest, against="dataset"),
    packing=PackingSettings(max_tokens=8192),
    sampling=SamplingSettings(max_new_tokens=MOST, rows=256),
    rewards=RewardSettings(judge=JudgeSettings(criterion=CRITERION, temperature=0.05)),
)

# Guesses about what is measured: of 116,722 posts some half are short enough.
ASSUMED = Prompts(
    train=50_000, held_out=1024, prompt_tokens=190.0, longest=400, response_tokens=40.0
)


def prompts_of(rows: Sequence[Row], tokenizer: Any) -> list[dict[str, str]]:
    """Posts that are neither short nor long, each with a person's summary.

    Args:
        rows: of the data set.
        tokenizer: of the model; not needed, posts are not cut.
    """
    del tokenizer
    found = []
    for row in rows:
        post, summary = (text_of(row, column, DATA) for column in ("prompt", "label"))
        if SHORTER < len(post) < LONGER and summary.strip() and forum(post) not in LEFT_OUT:
            found.append({"prompt": post.rstrip(" "), "completion": f" {summary.strip()}"})
    return found


def forum(post: str) -> str:
    """The forum that the first line of a post names, as in ``SUBREDDIT: r/tifu``."""
    return post.split("\n", 1)[0].rstrip().rpartition("/")[2].lower()


STUDY = Study(
    name="active_tldr",
    title="Active preference learning on summaries of forum posts with Pythia-1B.",
    data=DATA,
    config=PYTHIA_1B,
    settings=SETTINGS,
    assumed=ASSUMED,
    prompts_of=prompts_of,
)

if __name__ == "__main__":
    main(STUDY)
