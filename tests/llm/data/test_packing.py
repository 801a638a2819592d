"""A packed batch holds exactly its groups: nothing lost, nothing leaked, all in its place."""

import jax
import numpy as np
import pytest

from llm.data.examples import Group
from llm.data.packing import KNOWN, Batch, Place, Shape, lay_out, pack, run_length
from tests.llm.data.unpacking import unpack


def group(prompt: list[int], *responses: list[int], rewards: tuple[float, ...] = ()) -> Group:
    return Group(
        np.array(prompt, np.int32),
        tuple(np.array(response, np.int32) for response in responses),
        np.array(rewards or range(len(responses)), np.float32),
        "here",
    )


TWO = group([5, 6], [7, 8, 1], [9, 1], rewards=(1.0, 0.25))
THREE = group([4], [3, 1], [3, 3, 1], [1])
BARE = group([], [11, 12, 1])


def batch_of(*groups: Group, share: bool = True, length: int = 32, **options) -> Batch:
    """All groups in one row after the other."""
    starts = np.cumsum([0, *(run_length(g, share) for g in groups)])
    places = [Place(i, 0, int(start)) for i, start in enumerate(starts[:-1])]
    shape = Shape(2, length, 64, len(groups) + 1, 3, 4)
    return pack(groups, [places], shape, share_prompt=share, **options)


def seen_by(batch: Batch, row: int, i: int) -> list[int]:
    """Positions a token attends to, by the rule the decoder applies."""
    segments, branches = np.asarray(batch.segments)[row], np.asarray(batch.branches)[row]
    return [
        j
        for j in range(i + 1)
        if segments[j] == segments[i] != 0 and branches[j] in (0, branches[i])
    ]


@pytest.mark.parametrize("share", [True, False])
def test_unpacking_a_batch_gives_its_groups_back(share):
    groups = (TWO, THREE, BARE)
    back = unpack(batch_of(*groups, share=share))
    for (prompt, responses), made_from in zip(back, groups, strict=True):
        assert np.array_equal(prompt, made_from.prompt)
        assert [r.tolist() for r in responses] == [r.tolist() for r in made_from.responses]


@pytest.mark.parametrize("share", [True, False])
def test_every_scored_token_is_predicted_from_its_prompt_and_what_it_has_said_so_far(share):
    groups = (TWO, THREE)
    batch = batch_of(*groups, share=share)
    tokens = np.asarray(batch.tokens)
    for p in range(int(batch.count[0])):
        b, rest = divmod(int(batch.slot[p]), 12)
        n, t = divmod(rest, 4)
        row, place = divmod(int(batch.source[p]), 32)
        context = tokens[row, seen_by(batch, row, place)].tolist()
        response = groups[b].responses[n].tolist()
        assert context == groups[b].prompt.tolist() + response[:t]
        assert batch.target[p] == response[t]


@pytest.mark.parametrize("share", [True, False])
def test_positions_go_on_where_the_prompt_ended(share):
    batch = batch_of(TWO, THREE, share=share)
    for row, place in zip(*np.nonzero(batch.segments), strict=True):
        assert batch.positions[row, place] == len(seen_by(batch, row, place)) - 1


def test_the_picture_in_the_docstring_is_what_is_built():
    batch = batch_of(TWO, group([2, 2], [3, 3], [1]))
    assert batch.segments[0, :12].tolist() == [1] * 7 + [2] * 5
    assert batch.branches[0, :12].tolist() == [0, 0, 1, 1, 1, 2, 2, 0, 0, 1, 1, 2]
    assert batch.positions[0, :12].tolist() == [0, 1, 2, 3, 4, 2, 3, 0, 1, 2, 3, 2]
    assert not batch.segments[0, 12:].any() and not batch.segments[1].any()


def test_sharing_the_prompt_saves_its_copies_and_nothing_else():
    assert run_length(THREE) == 1 + 6
    assert run_length(THREE, share_prompt=False) == 3 + 6
    shared, apart = lay_out(THREE), lay_out(THREE, share_prompt=False)
    assert shared.tokens[shared.place].tolist() == apart.tokens[apart.place].tolist()
    assert shared.branches.tolist() == [0, 1, 1, 2, 2, 2, 3]
    assert apart.segments.tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2]


def test_the_first_token_of_a_text_without_a_prompt_is_not_scored():
    batch = batch_of(BARE)
    assert batch.mask[0, 0].tolist() == [False, True, True, False]
    assert batch.target[: batch.count[0]].tolist() == [12, 1]


def test_what_is_scored_follows_from_the_layout_and_not_from_token_values():
    # A model that pads with EOS: its EOS is scored all the same, and padding never is.
    batch = batch_of(group([0, 0], [0, 1, 0], [0]))
    assert batch.mask.sum() == 4
    assert batch.mask[0, 0].tolist() == [True, True, True, False]


def test_padding_points_outside_so_that_a_scatter_drops_it():
    batch = batch_of(TWO)
    size = batch.mask.size
    count = int(batch.count[0])
    assert (batch.slot[count:] == size).all()
    scattered = jax.numpy.zeros(size).at[batch.slot].set(1.0, mode="drop")
    assert np.array_equal(scattered.reshape(batch.mask.shape) > 0, batch.mask)


def test_rewards_stay_numbers_with_a_fraction_and_ragged_groups_are_marked():
    batch = batch_of(TWO, THREE)
    assert batch.reward.dtype == np.float32
    assert batch.reward[0].tolist() == [1.0, 0.25, 0.0]
    assert batch.valid.tolist() == [[True, True, False], [True, True, True], [False] * 3]
    assert batch.example.tolist() == [0, 1, -1]


@pytest.mark.parametrize("share", [True, False])
def test_the_last_token_of_every_response_can_be_found(share):
    batch = batch_of(TWO, THREE, BARE, share=share)
    flat = np.asarray(batch.tokens).reshape(-1)
    assert (flat[batch.last[batch.valid]] == 1).all()


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_of_a_token_lands_on_it(share, name):
    known = [100.0 * i + np.arange(g.scored, dtype=np.float32) for i, g in enumerate((TWO, BARE))]
    batch = batch_of(TWO, BARE, share=share, known={name: known})
    given = getattr(batch, name)
    assert given[0, 0].tolist() == [0, 1, 2, 0]
    assert given[0, 1].tolist() == [3, 4, 0, 0]
    assert given[1, 0].tolist() == [0, 101, 102, 0]  # its first token is not scored
    assert all(getattr(batch, other) is None for other in KNOWN if other != name)


def test_a_batch_refuses_what_it_has_no_place_for():
    numbers = [np.zeros(TWO.scored, np.float32)]
    with pytest.raises(ValueError, match="ref_logp"):
        batch_of(TWO, known={"reference": numbers})


def test_shards_are_batches_of_their_own_side_by_side():
    shape = Shape(1, 16, 8, 2, 2, 3)
    both = pack([TWO, BARE], [[Place(0, 0, 0)], [Place(1, 0, 0)]], shape)
    first = pack([TWO, BARE], [[Place(0, 0, 0)]], shape)
    second = pack([TWO, BARE], [[Place(1, 0, 0)]], shape)
    for name in ("tokens", "segments", "source", "target", "mask", "reward", "example", "count"):
        joined = np.concatenate([getattr(first, name), getattr(second, name)])
        assert np.array_equal(getattr(both, name), joined), name
    # Slots and last tokens are counted over the whole batch.
    count = int(second.count[0])
    assert np.array_equal(both.slot[8 : 8 + count], second.slot[:count] + first.mask.size)
    assert both.last[2, 0] == 16 + second.last[0, 0]
    assert [r.tolist() for _, (r, *_) in unpack(both)] == [[7, 8, 1], [11, 12, 1]]


def test_a_batch_is_a_pytree_that_survives_jit():
    batch = batch_of(TWO)
    back = jax.jit(lambda x: x)(batch)
    assert isinstance(back, Batch)
    assert back.ref_logp is None
    assert np.array_equal(back.tokens, batch.tokens)
