"""A collection, with somebody else to write, to judge and to score: who is asked for what, when."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from llm.collection import Collector, Interrupted, fingerprint
from llm.data.examples import Group
from llm.fresh_advantages import Carried
from llm.rescoring import Said
from llm.responses import Judges, Trial, Writer, summary
from llm.rewards import RewardError
from llm.rollouts import read_rollouts
from llm.sampler import Sampling
from llm.sampler.sample import Sample
from llm.settings import SamplingSettings, Training
from objectives.recipes import RECIPES
from tests.llm.data.byte_tokenizer import make_tokenizer

EOS = 1
NOTHING = Carried(0.0, 0.0, 0.0)
TOKENIZER = make_tokenizer()


def ids(text: str) -> np.ndarray:
    return np.array(TOKENIZER.encode(text, add_special_tokens=False), np.int32)


class Parrot:
    """Writes the number of the prompt, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.loaded: list[Any] = []

    def load(self, values: Any) -> None:
        self.loaded.append(values)

    def write(self, prompts: Any, settings: Sampling, prompt_ids: Any) -> list[list[Sample]]:
        self.asked.append(list(prompt_ids))
        return [
            [
                Sample(
                    np.append(ids(f"{number}{'abc'[n]}"), np.int32(EOS)),
                    np.full(len(f"{number}") + 2, -0.5 - n, np.float32),
                    np.full(len(f"{number}") + 2, -0.5 - n, np.float32),
                    n == 0,
                )
                for n in range(settings.responses)
            ]
            for number in prompt_ids
        ]


class Spelled:
    """Worth of a response: a seventh for every character, and another for being the first."""

    name = "spelled"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, groups: Any) -> list[np.ndarray]:
        self.calls += 1
        return [
            np.array([len(y.response) / 7 + (n == 0) / 7 for n, y in enumerate(g)]) for g in groups
        ]


def said(trainable: Any, groups: Any) -> list[Said]:
    """A scorer that agrees with the sampler to a thousandth, and with the reference not at all."""
    found = []
    for group in groups:
        lengths = [len(y) for y in group.responses]
        old = np.concatenate([np.full(k, -0.5 - n, np.float32) for n, k in enumerate(lengths)])
        each = np.full(sum(lengths), 0.25, np.float32)
        found.append(Said(old + np.float32(1e-3), old - 1, None, each, 2 * each))
    return found


def collector(folder: Path, **changes: Any) -> Any:
    """Six prompts in parts of two, whoever is asked remembering it."""
    groups = [
        Group(
            prompt=ids(f"q{number}"),
            responses=(np.append(ids("yes"), np.int32(EOS)), ids("cut")),
            rewards=np.array([1.0, 0.0], np.float32),
            where=f"row {number}",
            cut_responses=1,
        )
        for number in range(12)
    ]
    made = Collector(
        recipe=RECIPES["rloo"].with_collection(prompts=6, responses=2),
        settings=Training(sampling=SamplingSettings(rows=5)),
        groups=groups,
        writer=Writer(Parrot(), Parrot(), TOKENIZER, Sampling(responses=2, stop=(EOS,))),
        judges=Judges(Spelled()),
        rescorer=said,
        values=lambda trainable: trainable,
        critic=None,
        folder=folder,
        visit=lambda iteration: np.arange(6) + 6 * (iteration % 2),
        run="this",
    )
    return replace(made, **changes)


def parameters(shift: float = 0.0) -> dict[str, Any]:
    return {"a": jnp.arange(6.0).reshape(2, 3) + shift, "b": jnp.ones(4, jnp.bfloat16)}


def always(share: float) -> bool:
    return True


def test_a_part_holds_as_many_responses_as_are_written_side_by_side(tmp_path):
    made = collector(tmp_path)
    shares: list[float] = []
    found, clock = made.collect(3, parameters(), NOTHING, lambda share: not shares.append(share))
    assert made.writer.policy.asked == [[18, 19], [20, 21], [22, 23]]
    assert shares[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [rollout.where for rollout in found.rollouts] == [f"row {n}" for n in range(6, 12)]
    assert clock["tokens"] == sum(sum(r.lengths) for r in found.rollouts)
    assert not list(tmp_path.rglob("*.parts"))


def test_whoever_is_stopped_after_a_part_writes_only_what_is_missing(tmp_path):
    made = collector(tmp_path)
    whole, _ = collector(tmp_path / "other").collect(0, parameters(), NOTHING, always)
    with pytest.raises(Interrupted):
        made.collect(0, parameters(), NOTHING, lambda share: share < 0.5)
    again = collector(tmp_path)
    found, _ = again.collect(0, parameters(), NOTHING, always)
    assert again.writer.policy.asked == [[4, 5]]
    for one, other in zip(found.rollouts, whole.rollouts, strict=True):
        assert one.known["advantage"].tobytes() == other.known["advantage"].tobytes()
    path = Path("rollouts") / "000000.parquet"
    assert (tmp_path / path).read_bytes() == (tmp_path / "other" / path).read_bytes()


def test_what_is_there_is_not_asked_for_again(tmp_path):
    first, _ = collector(tmp_path).collect(0, parameters(), NOTHING, always)
    again = collector(tmp_path)
    found, clock = again.collect(0, parameters(), NOTHING, always)
    assert not again.writer.policy.asked and again.judges.reward.calls == 0 and clock == {}
    assert found.facts == first.facts


@pytest.mark.parametrize(
    ("changes", "shift", "carried"),
    [
        ({}, 1e-6, NOTHING),
        ({"run": "that"}, 0.0, NOTHING),
        ({}, 0.0, Carried(1.0, 2.0, 0.0)),
    ],
    ids=["another policy", "another run", "after other rewards"],
)
def test_what_was_made_otherwise_is_made_again(tmp_path, changes, shift, carried):
    collector(tmp_path).collect(0, parameters(), NOTHING, always)
    again = collector(tmp_path, **changes)
    again.collect(0, parameters(shift), carried, always)
    assert again.writer.policy.asked and again.judges.reward.calls == 1


def test_a_damaged_part_is_written_again(tmp_path):
    with pytest.raises(Interrupted):
        collector(tmp_path).collect(0, parameters(), NOTHING, lambda share: share < 0.5)
    part = tmp_path / "rollouts" / "000000.parts" / "000002.parquet"
    part.write_bytes(part.read_bytes()[:50])
    again = collector(tmp_path)
    again.collect(0, parameters(), NOTHING, always)
    assert again.writer.policy.asked == [[2, 3], [4, 5]]


def test_a_reward_that_cannot_answer_keeps_what_is_written(tmp_path):
    class Down(Spelled):
        def __call__(self, groups: Any) -> Any:
            raise RewardError("down")

    with pytest.raises(RewardError):
        collector(tmp_path, judges=Judges(Down())).collect(0, parameters(), NOTHING, always)
    again = collector(tmp_path)
    again.collect(0, parameters(), NOTHING, always)
    assert not again.writer.policy.asked


def test_the_reference_writes_where_it_is_asked_and_needs_no_weights(tmp_path):
    recipe = RECIPES["rloo"].with_collection(prompts=6, responses=2, source="reference")
    made = collector(tmp_path, recipe=recipe)
    found, _ = made.collect(0, parameters(), NOTHING, always)
    assert {rollout.source for rollout in found.rollouts} == {"reference"}
    assert not made.writer.policy.asked and not made.writer.policy.loaded
    assert len(made.writer.reference.asked) == 3
    assert "sampler_gap" not in found.facts["numbers"]


def test_a_share_of_the_prompts_keeps_what_the_data_set_has_for_them(tmp_path):
    settings = Training(sampling=SamplingSettings(rows=5), offline=1 / 3, missing_eos=10.0)
    made = collector(tmp_path, settings=settings, judges=Judges(Spelled(), missing_eos=10.0))
    found, _ = made.collect(1, parameters(), NOTHING, always)
    assert [rollout.source for rollout in found.rollouts] == ["dataset"] * 2 + ["policy"] * 4
    given = found.rollouts[0]
    assert [y.response for y in given.responses] == ["yes", "cut"]
    assert [y.finished for y in given.responses] == [True, False], "a cut response has not ended"
    assert given.reward.tolist() == [4 / 7, 3 / 7]
    assert given.worth.tolist() == [4 / 7, 3 / 7 - 10], "and is judged like any other"
    assert (given.known["old_logp"] == given.known["ref_logp"]).all()
    fresh = found.rollouts[-1]
    assert (fresh.known["old_logp"] != fresh.known["ref_logp"]).all()


def test_a_fraction_of_a_point_reaches_the_advantage_and_the_disk(tmp_path):
    collector(tmp_path).collect(0, parameters(), NOTHING, always)
    found = read_rollouts(tmp_path / "rollouts" / "000000.parquet")
    for rollout in found.rollouts:
        assert rollout.reward.tolist() == [3 / 7, 2 / 7]
        assert rollout.known["advantage"][0] == pytest.approx(1 / 7)
        assert rollout.known["advantage"][-1] == pytest.approx(-1 / 7)


def test_a_line_says_what_a_collection_is_like(tmp_path):
    judges = Judges(Spelled(), gold=Spelled(), missing_eos=2.0)
    made = collector(tmp_path, judges=judges)
    found, _ = made.collect(0, parameters(), NOTHING, always)
    numbers = found.facts["numbers"]
    tokens = 3
    assert numbers["reward"] == pytest.approx((3 / 7 + 2 / 7) / 2), "as judged"
    assert numbers["gold"] == pytest.approx((3 / 7 + 2 / 7) / 2), "gold is what it is"
    assert numbers["response_length"] == tokens and numbers["finished"] == 0.5
    assert numbers["ties"] == 0 and numbers["kl_coefficient"] == 0
    assert numbers["forward_kl"] == pytest.approx(0.25 * tokens), "nats per response"
    assert numbers["reverse_kl"] == pytest.approx(0.5 * tokens)
    assert numbers["sampler_gap"] == pytest.approx(1e-3, rel=1e-3)
    tied = [replace(rollout, reward=rollout.reward * 0) for rollout in found.rollouts[:3]]
    mixed = tied + found.rollouts[3:]
    assert summary(mixed, said(None, [r.group for r in mixed]))["ties"] == 0.5


class Silent(Parrot):
    """Has nothing to say, except to every second prompt."""

    def write(self, prompts: Any, settings: Sampling, prompt_ids: Any) -> list[list[Sample]]:
        nothing = Sample(np.array([EOS], np.int32), *np.zeros((2, 1), np.float32), True)
        said = super().write(prompts, settings, prompt_ids)
        return [[nothing] if number % 2 else s for number, s in zip(prompt_ids, said, strict=True)]


class Longer:
    """The longer of two wins; of one alone there is nothing to say."""

    name, compares = "longer", True

    def __call__(self, groups: Any) -> list[np.ndarray]:
        lengths = [[len(y.response) for y in group] for group in groups]
        return [np.array([(a > b) + (a == b) / 2, (a < b) + (a == b) / 2]) for a, b in lengths]


def test_a_reward_that_only_compares_sets_an_answer_against_that_of_the_model_at_the_start(
    tmp_path,
):
    policy, first, sampling = Parrot(), Silent(), Sampling(responses=1, stop=(EOS,))
    trial = Trial(
        groups=collector(tmp_path).groups[:4],
        writer=Writer(policy, None, TOKENIZER, sampling),
        judges=Judges(Longer(), gold=Longer()),
        rescorer=said,
        values=lambda trainable: trainable,
        rival=Writer(first, None, TOKENIZER, sampling),
    )
    for _ in range(2):
        numbers = trial(parameters())
        assert numbers["reward"] == numbers["gold"] == 0.75, "two wins and two draws"
        assert numbers["response_length"] == 3, "the rival's answers are not the policy's"
    assert len(first.asked) == 1 and not first.loaded and len(policy.asked) == 2


def test_two_policies_that_differ_in_one_bit_have_two_fingerprints():
    seen = {fingerprint(parameters())}
    for path, value in parameters().items():
        raw = np.asarray(value)
        for place in range(raw.size):
            for bit in (0, raw.dtype.itemsize * 8 - 1):
                words = raw.copy().reshape(-1).view(f"u{raw.dtype.itemsize}")
                words[place] ^= words.dtype.type(1 << bit)
                changed = jnp.asarray(words.view(raw.dtype).reshape(raw.shape))
                seen.add(fingerprint(parameters() | {path: changed}))
    assert len(seen) == 1 + 2 * (6 + 4)
    swapped = parameters() | {"a": parameters()["a"][::-1]}
    assert fingerprint(swapped) not in seen
    assert fingerprint(parameters()) == fingerprint(dict(reversed(parameters().items())))
