"""The sampler and the scorer speak of one distribution, whatever the rule and the layout.

One reads a token at a time from a cache, its prompts padded, and keeps the log-probability of what
it draws; the other reads whole packed groups at once. Were they of two minds, every importance
ratio would be off before the first update.
"""

import itertools

import jax
import numpy as np
import pytest

from llm.data.examples import Group
from llm.data.order import InOrder
from llm.data.plan import PackingSettings, make_plan
from llm.sampler import Sampling, sample
from llm.scoring import score
from tests.llm.model.decoders import ARCHITECTURES, filled
from tests.llm.tiny_runs import as_jax

LENGTHS = (3, 17, 9, 1, 14)
STOP = (4,)
TEMPERATURES, TOP_K, TOP_P = (0.3, 0.7, 1.0, 1.5), (0, 5, 50), (1.0, 0.9, 0.5)
GRID = [(t, k, p) for t in TEMPERATURES for k in TOP_K for p in TOP_P]
# Three families with a rule of its own each time, the others with one each time among the slow
# tests; the rest of the grid takes minutes.
USUAL = [("gpt2", (0.3, 5, 1.0)), ("llama3", (0.7, 0, 0.9)), ("gemma2", (1.5, 5, 0.5))]
SLOW = [(family, GRID[5 * number % len(GRID)]) for number, family in enumerate(ARCHITECTURES)]
REST = [
    pytest.param(
        *case,
        marks=[pytest.mark.slow, *([] if case in SLOW else [pytest.mark.exhaustive])],
    )
    for case in itertools.product(ARCHITECTURES, GRID)
    if case not in USUAL
]


@pytest.mark.parametrize(("family", "rule"), [*USUAL, *REST])
def test_sampler_and_scorer_agree_on_every_token(family, rule):
    decoder = filled(ARCHITECTURES[family])
    temperature, top_k, top_p = rule
    settings = Sampling(
        responses=4,
        max_new_tokens=12,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=1,
        stop=STOP,
    )
    random = np.random.default_rng(0)
    prompts = [random.integers(0, 31, length).astype(np.int32) for length in LENGTHS]
    drawn = sample(decoder, prompts, settings)
    groups = [
        Group(prompt, tuple(s.tokens for s in row), np.zeros(len(row), np.float32), "here")
        for prompt, row in zip(prompts, drawn, strict=True)
    ]
    old = [np.concatenate([s.logp for s in row]) for row in drawn]
    for share in (True, False):
        packing = PackingSettings(max_tokens=512, row_length=128, share_prompt=share, shapes=1)
        plan = make_plan(groups, InOrder(5, 5), packing, steps=1, width=16)
        (batch,) = plan.with_known(old_logp=old).micro_batches(0)
        found = jax.jit(lambda model, batch: score(model, batch, rule=settings.rule))(
            decoder, as_jax(batch)
        )
        assert batch.old_logp is not None
        np.testing.assert_allclose(found.logp, batch.old_logp, atol=1e-4)
    tokens = sum(len(s.tokens) for row in drawn for s in row)
    assert tokens > 50, "too few tokens to agree on"
    assert temperature < 0.5 or min(x.min() for x in old) < -0.5, "nothing was uncertain"
