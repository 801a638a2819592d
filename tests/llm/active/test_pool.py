"""A pool: whose samples an entropy is made of, what is read again, what is never asked about."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.active import pool as pools
from llm.active.pool import Chooser, facts_of, path_of, plausible, pool_files
from llm.active.settings import PoolSettings
from llm.active.writing import Scribe
from llm.data.examples import Group
from llm.data.order import Order
from llm.rescoring import Said
from llm.sampler import Sample, Sampling
from tests.llm.data.byte_tokenizer import make_tokenizer

PROMPTS, WANTED = 40, 3
FIRST_LETTER = 66
SIZES = PoolSettings(pairs=4, prompts=2, samples=5)


class Clerk:
    """Writes letters; every token of a response to prompt p, sample n, has a number of its own."""

    def __init__(self, logp: Any, equal: Any = lambda number: False) -> None:
        self.logp, self.equal = logp, equal
        self.asked: list[int] = []
        self.written = 0

    def load(self, values: Any) -> None:
        pass

    def write(self, prompts: Any, settings: Sampling, prompt_ids: Any) -> list[list[Sample]]:
        self.asked += list(prompt_ids)
        self.written += len(prompts) * settings.responses
        return [[self.one(p, n, settings) for n in range(settings.responses)] for p in prompt_ids]

    def one(self, number: int, n: int, settings: Sampling) -> Sample:
        letter = FIRST_LETTER + (0 if self.equal(number) else n) + number % 7
        tokens = np.full(settings.max_new_tokens, letter, np.int32)
        own = np.full(len(tokens), self.logp(number, n), np.float32)
        return Sample(tokens, own * 3, own, False)


class Reader:
    """An opinion of pairs, and whose was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def __call__(self, trainable: Any, groups: Any) -> list[Said]:
        [whose] = trainable
        self.asked.append((whose, len(groups)))
        return [Said(self.logp(group), None, None, None, None) for group in groups]

    @staticmethod
    def logp(group: Group) -> np.ndarray:
        tokens = np.concatenate(group.responses)
        return (-1 - 0.01 * (tokens % 5)).astype(np.float32)


def chooser(tmp_path: Path, name: str, clerk: Clerk, reader: Reader, **sizes: Any) -> Chooser:
    tokenizer = make_tokenizer()
    sampling = Sampling(max_new_tokens=8, temperature=0.7)
    groups = [
        Group(np.array([40 + row, 50], np.int32), (), np.zeros(0, np.float32), f"row {row}")
        for row in range(PROMPTS)
    ]
    return Chooser(
        name=name,
        settings=replace(SIZES, **sizes),
        groups=groups,
        order=Order(PROMPTS, 1, 0),
        policy=Scribe(clerk, tokenizer, sampling, shortest=4, seed=7),
        reference=Scribe(Clerk(lambda p, n: -9.0), tokenizer, sampling),
        curious=Scribe(clerk, tokenizer, replace(sampling, temperature=1.0)),
        rescorer=reader,
        initial=known_as("reference"),
        beta=0.2,
        embedding=lambda: np.random.default_rng(0).normal(size=(300, 4)),
        seed=0,
        folder=tmp_path,
    )


def known_as(name: str) -> dict[str, jax.Array]:
    """Parameters that say whose they are."""
    return {name: jnp.zeros(())}


def uneven(number: int, n: int) -> float:
    """Log-probabilities per token that differ from prompt to prompt and from sample to sample."""
    return -1 - 0.3 * ((number * 7) % 11) - 0.02 * n


def made(
    made_by: Chooser, fresh: bool = False, wanted: int = WANTED, others: str = "", number: int = 0
) -> Any:
    members = [known_as(name) for name in ("policy", *others)]
    return made_by.pool(number, 0, wanted, members, fresh, lambda line: None)


def test_the_entropy_of_a_prompt_is_that_of_its_own_samples(tmp_path):
    """The published code averages a window that slides by one, over other prompts' samples."""
    found = made(chooser(tmp_path, "entropy", Clerk(uneven), Reader()))
    many, n = WANTED * SIZES.prompts, SIZES.samples
    S = np.array([[3 * 8 * uneven(p, i) for i in range(n)] for p in range(many)])
    own = -S.mean(axis=1)
    kept = set(np.argsort(-own)[:WANTED])
    assert {rollout.prompt_id for rollout in found.rollouts} == kept
    for rollout, entropy in zip(found.rollouts, found.facts["entropy"], strict=True):
        assert entropy == pytest.approx(own[rollout.prompt_id], rel=1e-6)
    flat = S.ravel()
    window = np.array([-flat[p : p + n].mean() for p in range(many)])
    assert set(np.argsort(-window)[:WANTED]) != kept  # so a slip would be seen


def test_the_sampler_has_said_what_the_policy_thinks_and_only_the_reference_reads(tmp_path):
    reader, clerk = Reader(), Clerk(uneven)
    found = made(chooser(tmp_path, "certainty", clerk, reader))
    assert reader.asked == [("reference", WANTED * SIZES.pairs)]
    assert clerk.written == 2 * WANTED * SIZES.pairs
    margin = []
    for rollout in found.rollouts:
        ratio = rollout.known["old_logp"] - Reader.logp(rollout.group)
        np.testing.assert_allclose(rollout.known["ref_logp"], Reader.logp(rollout.group))
        # The model's own, and not those of the tempered distribution that was drawn from.
        assert rollout.known["old_logp"][0] == pytest.approx(uneven(rollout.prompt_id, 0))
        cut = rollout.lengths[0]
        margin.append(0.2 * (ratio[:cut].sum() - ratio[cut:].sum()))
    np.testing.assert_allclose(found.facts["margin"], margin, atol=1e-5)
    certainty = np.array(found.facts["certainty"])
    np.testing.assert_array_equal(certainty, np.abs(found.facts["margin"]))
    assert (np.diff(certainty) <= 0).all() and certainty[0] > certainty[-1]


@pytest.mark.parametrize("name", ["certainty", "uncertainty", "diverse", "hybrid"])
def test_while_policy_and_reference_are_one_no_pair_is_written_that_nobody_chooses(tmp_path, name):
    reader, clerk = Reader(), Clerk(uneven)
    found = made(chooser(tmp_path, name, clerk, reader), fresh=True)
    assert found.facts["blind"] and not reader.asked
    assert len(found.rollouts) == WANTED
    assert not any(found.facts["certainty"])
    samples = WANTED * SIZES.pairs * SIZES.prompts * SIZES.samples if name == "hybrid" else 0
    assert clerk.written == 2 * WANTED + samples


def test_hybrid_keeps_prompts_by_entropy_and_then_pairs_by_certainty(tmp_path):
    found = made(chooser(tmp_path, "hybrid", Clerk(uneven), Reader()))
    many = WANTED * SIZES.pairs * SIZES.prompts
    assert found.facts["prompts"] == found.facts["next"] == many
    assert len(found.rollouts) == WANTED * SIZES.pairs
    entropy = {p: 1 + 0.3 * ((p * 7) % 11) for p in range(many)}
    least = sorted(entropy.values())[-WANTED * SIZES.pairs]
    assert all(entropy[rollout.prompt_id] >= least - 1e-9 for rollout in found.rollouts)
    assert (np.diff(found.facts["certainty"]) <= 0).all()


@pytest.mark.parametrize("name", ["random", "offline"])
def test_pairs_as_they_come_need_nobodys_opinion(tmp_path, name):
    reader = Reader()
    found = made(chooser(tmp_path, name, Clerk(uneven), reader))
    assert len(found.rollouts) == WANTED and not reader.asked and not found.facts["blind"]
    assert {rollout.source for rollout in found.rollouts} == {
        "reference" if name == "offline" else "policy"
    }
    if name == "offline":
        assert all((rollout.known["old_logp"] == -9).all() for rollout in found.rollouts)


def test_two_responses_that_read_the_same_are_no_pair(tmp_path):
    found = made(
        chooser(tmp_path, "certainty", Clerk(uneven, equal=lambda p: p % 3 == 0), Reader())
    )
    assert all(rollout.prompt_id % 3 for rollout in found.rollouts)
    assert found.facts["equal"] == WANTED * SIZES.pairs - len(found.rollouts) > 0


def test_a_pool_without_a_single_pair_is_kept_as_such(tmp_path):
    made_by = chooser(tmp_path, "certainty", Clerk(uneven, equal=lambda p: True), Reader())
    for found in (made(made_by), made(made_by)):
        assert found.rollouts == [] and found.facts["equal"] == WANTED * SIZES.pairs


def test_both_responses_of_a_pair_are_cut_alike_at_lengths_that_are_drawn_evenly(tmp_path):
    found = made(chooser(tmp_path, "certainty", Clerk(uneven), Reader(), pairs=13), wanted=30)
    lengths = [rollout.lengths for rollout in found.rollouts]
    assert all(first == second for first, second in lengths)
    counts = np.bincount([first for first, _ in lengths], minlength=9)
    assert set(np.flatnonzero(counts)) == {4, 5, 6, 7, 8}
    assert counts[4:].min() > 45  # 78 expected


def test_pruning_leaves_out_what_the_reference_finds_strangest(tmp_path):
    made_by = chooser(tmp_path, "random", Clerk(uneven), Reader(), prune=0.5)
    found = made(made_by, wanted=10)
    assert len(found.rollouts) == 10 and found.facts["pruned"] == 10
    worst = [-rollout.known["ref_logp"].min() for rollout in found.rollouts]
    everything = made_by.write(*[np.arange(20)] * 2, lambda line: None)
    surprises = sorted(-Reader.logp(pair.group).min() for pair in everything)
    np.testing.assert_allclose(sorted(worst), surprises[:10], atol=1e-6)
    scored = [replace(pair, known={"ref_logp": Reader.logp(pair.group)}) for pair in everything]
    assert plausible(scored, 10).sum() == 10


def test_an_ensemble_reads_the_pairs_once_for_every_member_but_the_one_that_wrote_them(tmp_path):
    reader = Reader()
    made(chooser(tmp_path, "disagreement", Clerk(uneven), reader), others="bc")
    assert [who for who, _ in reader.asked] == ["reference", "b", "c"]


def test_every_pool_goes_on_with_the_prompts_after_the_last_and_is_made_once(tmp_path):
    clerk = Clerk(uneven)
    made_by = chooser(tmp_path, "random", clerk, Reader())
    first, again = made(made_by), made(made_by)
    assert clerk.asked == [0, 1, 2]
    assert [p.prompt_id for p in first.rollouts] == [p.prompt_id for p in again.rollouts]
    second = made(made_by, number=1)
    assert sorted(p.prompt_id for p in second.rollouts) == [3, 4, 5]
    assert pool_files(tmp_path) == [path_of(tmp_path, 0, 0), path_of(tmp_path, 1, 0)]


def test_a_damaged_pool_is_named(tmp_path):
    path = path_of(tmp_path, 0, 0)
    path.parent.mkdir()
    path.write_bytes(b"nothing")
    with pytest.raises(OSError, match=r"000000-000\.parquet.*Delete"):
        facts_of(path)


def test_many_prompts_are_asked_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "TOGETHER", 4)
    whole = made(chooser(tmp_path / "a", "hybrid", Clerk(uneven), Reader()))
    monkeypatch.setattr(pools, "TOGETHER", 1024)
    other = made(chooser(tmp_path / "b", "hybrid", Clerk(uneven), Reader()))
    assert whole.facts["entropy"] == other.facts["entropy"]
    assert [p.prompt_id for p in whole.rollouts] == [p.prompt_id for p in other.rollouts]
