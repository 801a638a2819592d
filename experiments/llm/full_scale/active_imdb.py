"""Film reviews with GPT-2 large: does asking about sure pairs save labels?

Question: a model that continues reviews shall write the more positive ones. Of its own pairs, which
are worth a label? Command: ``python -m experiments.llm.full_scale.active_imdb certainty``, or
another acquisition function; ``--dry-run`` prints the plan, ``--rehearse`` walks through it in
small. Hardware and time: as the plan says; one device of 80 GB. Numbers to expect, the authors',
means over 9 seeds: a win rate against the initial model, at 128, 256, 512 and 768 labels, of 0.671,
0.761, 0.846 and 0.882 for ``random``; 0.676, 0.816, 0.875 and 0.901 for ``certainty``; 0.682,
0.738, 0.841 and 0.891 for ``entropy``; 0.681, 0.812, 0.894 and 0.916 for ``hybrid``.

The judge is a model of OpenAI's, which asks for a key, prices and a cap: ``OPENAI_API_KEY``,
``--rewards.judge.price-in``, ``price-out`` and ``max-cost``. Another is given with ``--reward
judge:MODEL``, behind a server of one's own with ``--rewards.judge.base-url``; a judge that needs
neither with ``--reward classifier-whole:FOLDER``. ``--online`` is the authors' variant with a
classifier: 64 fresh pairs and one step in each of 200 phases, nothing used again; after every tenth
their win rate grew to 0.92 (``certainty``) and 0.69 (``random``) by phase 70, and 0.99 and 0.94 by
phase 190. ``experiments.reviews`` does the same in small, and has their numbers as arrays.

Weights are read from safetensors only. Where the Hub has a model only as a pickle, save it with
``save_pretrained`` of transformers on a machine where you trust it, and give ``--model FOLDER``.
``disagreement`` needs adapters, and they a higher rate: ``--adapters.rank 8
--optimizer.learning-rate 1e-5``.

Source: Muldrew et al. 2024, arXiv:2402.08114; sh/run-imdb2-runpod.sh and sh/run-imdb-dap.sh of the
    authors' repository willmuldrew/active-preference-learning, branch ``sub`` at 998f5d5.
Differs: the judge is asked in other words, for the same: most positive, and grammatical,
        consistent, free of repetition. It reads the beginning once and both continuations after it;
        theirs reads two whole reviews. A failed request is made again as it was, theirs at times
        with the two swapped; what it cannot decide in a contest counts half, theirs a coin's toss.
    There is a contest before the first round too. The 1,024 test prompts are the same for every
        seed; theirs are drawn by it. Every review is cut to one prompt, and left out where the cut
        text has other tokens (in the middle of a character, for example).
    In the first round policy and reference are the same and all pairs equally sure, so no more are
        written than are labelled; theirs writes 4,096 and takes what comes first.
    The entropy of a prompt is that of its own samples; theirs mixes those of neighbours.
    A response ends with its first end of text, theirs before its second. There is no dropout,
        theirs trains with GPT-2's. A GPU multiplies float32 in TF32, theirs does not.
    The variant's classifier is a linear one, not DistilBERT. A contest is held before the first
        phase and after every tenth; theirs in phases 0, 10, ..., 190.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from experiments.llm.full_scale.campaign import Study, main, text_of
from experiments.llm.full_scale.campaign_plan import Prompts
from llm.active import Active, ContestSettings, PoolSettings
from llm.data.examples import PackingSettings
from llm.data.rendering import encode
from llm.data.sources import Row
from llm.rewards.settings import JudgeSettings, RewardSettings
from llm.settings import LogSettings, OptimizerSettings, SamplingSettings, SaveSettings
from objectives import DPO

MODEL, DATA = "edbeeching/gpt2-large-imdb", "stanfordnlp/imdb"
JUDGED_BY = "judge:gpt-4-1106-preview"

GPT2_LARGE = {
    "model_type": "gpt2",
    "n_embd": 1280,
    "n_head": 20,
    "n_layer": 36,
    "n_positions": 1024,
    "vocab_size": 50257,
}

CRITERION = (
    "Each response goes on with the same beginning of a film review. Which makes the more positive "
    "review of it, in correct grammar, without contradicting itself or the beginning, and without "
    "saying anything twice?"
)

CHARACTERS = 200
"""A review that a prompt is taken from is longer than this."""
SHORTEST, LONGEST = 8, 16
"""Tokens of a prompt, drawn evenly, both included."""
LEAST, MOST = 16, 24
"""Tokens of a response, likewise."""
CUT_SEED = 0

# Theirs is Adam at a constant rate, and never clips.
ADAM = OptimizerSettings(
    learning_rate=1e-6, schedule="constant", warmup=0.0, clip_norm=float("inf")
)

SETTINGS = Active(
    model=MODEL,
    reward=JUDGED_BY,
    rounds=6,
    labels=128,
    epochs=50.0,
    batch=64,
    objective=DPO(beta=0.2),
    dtype="float32",
    pool=PoolSettings(pairs=32, prompts=8, samples=8, temperature=0.7, shortest=LEAST),
    contest=ContestSettings(prompts=1024, temperature=0.25),
    optimizer=ADAM,
    packing=PackingSettings(max_tokens=4096),  # 64 rows of a pair each: a step is one batch
    sampling=SamplingSettings(max_new_tokens=MOST, rows=1024),
    rewards=RewardSettings(judge=JudgeSettings(criterion=CRITERION, temperature=0.05)),
    log=LogSettings(every=10),
    save=SaveSettings(every=200, keep=1),
)

ONLINE = replace(
    SETTINGS,
    reward=None,
    rounds=200,
    labels=64,
    epochs=1.0,
    restart=False,
    learn="newest",
    pool=replace(SETTINGS.pool, pairs=8),
    contest=replace(SETTINGS.contest, every=10),
)

# Counted on the reviews with GPT-2's tokenizer: 5 of 24,895 that are long enough are left out.
ASSUMED = Prompts(
    train=24_890, held_out=1024, prompt_tokens=12.0, longest=LONGEST, response_tokens=20.0
)


def prompts_of(rows: Sequence[Row], tokenizer: Any) -> list[dict[str, str]]:
    """The beginnings of reviews, each of 8 to 16 tokens.

    Args:
        rows: of the data set.
        tokenizer: of the model.
    """
    reviews = [text_of(row, "text", DATA) for row in rows]
    begun = encode(tokenizer, [review for review in reviews if len(review) > CHARACTERS])
    drawn = np.random.default_rng(CUT_SEED).integers(SHORTEST, LONGEST, len(begun), endpoint=True)
    cut = [ids[:length] for ids, length in zip(begun, drawn.tolist(), strict=True)]
    texts = tokenizer.batch_decode(cut, clean_up_tokenization_spaces=False)
    again = encode(tokenizer, texts)
    return [
        {"prompt": text}
        for text, ids, same in zip(texts, cut, again, strict=True)
        if ids == same and len(ids) >= SHORTEST
    ]


STUDY = Study(
    name="active_imdb",
    title="Active preference learning on film reviews with GPT-2 large.",
    data=DATA,
    config=GPT2_LARGE,
    settings=SETTINGS,
    online=ONLINE,
    assumed=ASSUMED,
    prompts_of=prompts_of,
)

if __name__ == "__main__":
    main(STUDY)
