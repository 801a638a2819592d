"""What a policy wrote is read back as it was, by us and by any program that reads tables."""

from pathlib import Path

import numpy as np
import pytest

from llm.rewards import Written
from llm.rollouts import (
    PER_TOKEN,
    Rollout,
    Rollouts,
    path_of,
    read_rollouts,
    rollout_files,
    write_rollouts,
)

TEXTS = ("", 'a line\nand "another"', "Ænglisc 日本語 🙂", "\x00\t")


def made(lengths: list[list[int]], *, gold: bool, known: tuple[str, ...]) -> Rollouts:
    """A collection of groups whose responses have these many tokens."""
    rng = np.random.default_rng(0)
    rollouts = []
    for number, group in enumerate(lengths):
        responses = tuple(
            Written(
                prompt=TEXTS[number % len(TEXTS)],
                response=TEXTS[(number + n) % len(TEXTS)],
                tokens=rng.integers(0, 258, length, dtype=np.int32),
                finished=bool(n % 2),
            )
            for n, length in enumerate(group)
        )
        rollouts.append(
            Rollout(
                prompt_id=2**32 - 1 - number,
                where=f"data.jsonl:{number}",
                source=("policy", "dataset", "reference")[number % 3],
                prompt=rng.integers(0, 258, number + 1, dtype=np.int32),
                responses=responses,
                reward=rng.normal(size=len(group)) / 3,
                trained=rng.normal(size=len(group)) if number % 2 else None,
                gold=rng.normal(size=len(group)) if gold else None,
                known={
                    name: rng.normal(size=sum(group)).astype(np.float32) * np.float32(1e-7)
                    for name in known
                },
            )
        )
    facts = {"policy": "0badcafe", "numbers": {"reward": 0.1 + 0.2, "forward_kl": 0.0}}
    return Rollouts(7, rollouts, facts)


def assert_same(one: Rollouts, other: Rollouts) -> None:
    assert (one.iteration, one.facts) == (other.iteration, other.facts)
    assert len(one.rollouts) == len(other.rollouts)
    for a, b in zip(one.rollouts, other.rollouts, strict=True):
        assert (a.prompt_id, a.where, a.source) == (b.prompt_id, b.where, b.source)
        arrays = [(a.prompt, b.prompt), (a.reward, b.reward)]
        assert (a.gold is None) == (b.gold is None)
        assert (a.trained is None) == (b.trained is None)
        arrays.append((a.worth, b.worth))
        if a.gold is not None and b.gold is not None:
            arrays.append((a.gold, b.gold))
        assert a.known.keys() == b.known.keys()
        arrays += [(a.known[name], b.known[name]) for name in a.known]
        for y, z in zip(a.responses, b.responses, strict=True):
            assert (y.prompt, y.response, y.finished) == (z.prompt, z.response, z.finished)
            arrays.append((y.tokens, z.tokens))
        for x, y in arrays:
            assert x.dtype == y.dtype
            assert x.tobytes() == y.tobytes()


@pytest.mark.parametrize("gold", [False, True])
@pytest.mark.parametrize("known", [(), ("old_logp",), tuple(PER_TOKEN.values())])
def test_a_collection_comes_back_as_it_went_to_the_bit(tmp_path, gold, known):
    collected = made([[3, 1], [2], [5, 1, 4], [1, 1, 1, 1]], gold=gold, known=known)
    path = path_of(tmp_path, 7)
    write_rollouts(path, collected)
    assert_same(read_rollouts(path), collected)
    assert rollout_files(tmp_path) == [path]


def test_the_same_collection_makes_the_same_bytes(tmp_path):
    for name in ("a.parquet", "b.parquet"):
        write_rollouts(tmp_path / name, made([[3, 1], [2]], gold=True, known=("old_logp",)))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_any_table_program_reads_a_row_for_each_response(tmp_path):
    import pyarrow.parquet as pq

    collected = made([[3, 1], [2]], gold=False, known=("old_logp", "advantage"))
    write_rollouts(tmp_path / "a.parquet", collected)
    table = pq.read_table(tmp_path / "a.parquet")
    kinds = {field.name: str(field.type) for field in table.schema}
    floats, ints = "list<element: float>", "list<element: int32>"
    assert kinds == {
        "iteration": "int32",
        "prompt_id": "int64",
        "response_id": "int32",
        "source": "string",
        "where": "string",
        "prompt": "string",
        "response": "string",
        "prompt_tokens": ints,
        "tokens": ints,
        "finished": "bool",
        "reward": "double",
        "trained_reward": "double",
        "gold": "double",
        "logp": floats,
        "ref_logp": floats,
        "value": floats,
        "return": floats,
        "advantage": floats,
    }
    assert table["response_id"].to_pylist() == [0, 1, 0]
    assert table["gold"].to_pylist() == [None] * 3
    assert table["ref_logp"].to_pylist() == [None] * 3
    assert [len(row) for row in table["logp"].to_pylist()] == [3, 1, 2]
    rewards = np.concatenate([rollout.reward for rollout in collected.rollouts])
    assert table["reward"].to_pylist() == rewards.tolist()


def test_a_file_that_is_no_collection_is_named(tmp_path):
    path = tmp_path / "000000.parquet"
    write_rollouts(path, made([[3, 1]], gold=False, known=()))
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"not a table"):
        path.write_bytes(broken)
        with pytest.raises(OSError, match="cannot be read") as raised:
            read_rollouts(path)
        assert str(path) in str(raised.value)
    with pytest.raises(OSError, match="cannot be read"):
        read_rollouts(tmp_path / "000001.parquet")


def test_a_kill_while_a_file_is_written_leaves_the_one_that_was_there(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    path = path_of(tmp_path, 7)
    before = made([[3, 1]], gold=False, known=())
    write_rollouts(path, before)

    def half(table: object, where: Path, **options: object) -> None:
        Path(where).write_bytes(b"PAR1")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", half)
        with pytest.raises(KeyboardInterrupt):
            write_rollouts(path, made([[2]], gold=False, known=()))
    assert_same(read_rollouts(path), before)
    assert rollout_files(tmp_path) == [path], "half a file is not taken for a collection"
    write_rollouts(path, made([[2]], gold=False, known=()))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
