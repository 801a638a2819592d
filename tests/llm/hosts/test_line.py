"""What processes tell each other, and what they hear of one that has gone."""

import pickle
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from llm.hosts.line import SIZE, Gone, Line, pack, unpack
from llm.rewards import RewardError, Written
from llm.rollouts import Rollout


class Star:
    """Lines of a few processes, all of them in this one."""

    def __init__(self, count: int) -> None:
        pairs = {peer: socket.socketpair() for peer in range(1, count)}
        self.alarms: list[tuple[int, str]] = []

        def line(index: int, connections: dict[int, socket.socket]) -> Line:
            return Line(index, count, connections, lambda said: self.alarms.append((index, said)))

        self.ends = [line(0, {peer: pair[0] for peer, pair in pairs.items()})]
        self.ends += [line(peer, {0: pair[1]}) for peer, pair in pairs.items()]

    def heard_by(self, *peers: int) -> list[str]:
        """What each was alarmed by, once all were."""
        for peer in peers:
            assert self.ends[peer].noticed.wait(5)
        deadline = time.monotonic() + 5
        while True:
            heard = [said for index, said in sorted(self.alarms) if index in peers]
            if len(heard) == len(peers) or time.monotonic() > deadline:
                return heard
            time.sleep(0.01)


@pytest.fixture
def star() -> Iterator[Star]:
    made = Star(3)
    yield made
    for end in made.ends:
        end.close()


def travelled(value: Any) -> Any:
    return unpack(pack(value)[SIZE.size :])


def test_values_travel_as_they_are():
    rollout = Rollout(
        prompt_id=3,
        where="row 1",
        source="policy",
        prompt=np.arange(3, dtype=np.int32),
        responses=(Written("ask", "answer", np.arange(2, dtype=np.int32), True),),
        reward=np.array([0.5]),
        known={"old_logp": np.zeros(2, np.float32)},
    )
    found = travelled({"rollouts": [rollout], "path": Path("a"), "none": None, "big": 2**80})
    (other,) = found["rollouts"]
    assert found["path"] == Path("a") and found["big"] == 2**80
    assert other.responses[0].response == "answer"
    np.testing.assert_array_equal(other.prompt, rollout.prompt)
    brain = np.arange(4).astype(ml_dtypes.bfloat16)
    assert travelled(brain).dtype == brain.dtype
    assert isinstance(travelled(RewardError("down")), RewardError)
    assert travelled(np.arange(6).reshape(2, 3)[:, ::2]).tolist() == [[0, 2], [3, 5]]


class Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('called')",)


class Reach:
    def __reduce__(self) -> tuple[Any, ...]:
        from llm import state

        return state.write_text, (Path("never"), "written")


@pytest.mark.parametrize("value", [Malice(), Reach(), subprocess.run, np.load])
def test_nothing_that_is_received_is_called(value):
    with pytest.raises(pickle.UnpicklingError, match="no value that a process may send"):
        travelled(value)


def test_what_is_sent_arrives_in_order(star):
    first, second, third = star.ends
    big = np.arange(1 << 20)
    for value in ("a", big):
        first.send_all(value)
    third.send(0, "c")
    for end in (second, third):
        assert end.receive(0) == "a"
        np.testing.assert_array_equal(end.receive(0), big)
    assert first.receive(2) == "c"
    assert not star.alarms


def test_everybody_hears_who_is_gone(star):
    star.ends[2].connections[0].shutdown(socket.SHUT_RDWR)  # as the system does when it dies
    assert star.heard_by(0, 1) == ["process 2 of 3 is gone"] * 2
    with pytest.raises(Gone, match="process 2 of 3 is gone"):
        star.ends[1].receive(0)
    with pytest.raises(Gone, match="process 2"):
        star.ends[0].receive(1)


def test_where_the_first_is_gone_the_others_hear_of_it():
    alarms: list[str] = []
    ends = []
    for peer in (1, 2):
        first, other = socket.socketpair()
        ends.append(Line(peer, 3, {0: other}, alarms.append))
        first.close()
    for end in ends:
        assert end.noticed.wait(5)
        with pytest.raises(Gone, match="process 0 of 3 is gone"):
            end.receive(0)
        end.close()


def test_whoever_waits_is_woken(star):
    found: list[BaseException] = []

    def wait() -> None:
        try:
            star.ends[1].receive(0)
        except Gone as gone:
            found.append(gone)

    waiting = threading.Thread(target=wait)
    waiting.start()
    star.ends[2].close()
    star.ends[2].connections.clear()
    waiting.join(5)
    assert [str(gone) for gone in found] == ["process 2 of 3 is gone"]


def test_an_end_with_a_reason_is_passed_on(star):
    star.ends[1].warn("process 1 of 3 ended (OSError: no space)")
    assert star.heard_by(0, 2) == ["process 1 of 3 ended (OSError: no space)"] * 2


def test_they_part_when_all_have_come_to_the_end(star):
    parting = [threading.Thread(target=end.part) for end in star.ends]
    for thread in parting[1:]:
        thread.start()
    time.sleep(0.1)
    assert all(thread.is_alive() for thread in parting[1:])
    parting[0].start()
    for thread in parting:
        thread.join(5)
        assert not thread.is_alive()
    time.sleep(0.1)
    assert not star.alarms


def test_whoever_leaves_while_another_waits_for_its_word_is_missed(star):
    leaving = threading.Thread(target=lambda: suppress_gone(star.ends[1].part))
    leaving.start()
    with pytest.raises(Gone, match="process 1 of 3 ended while the others go on"):
        star.ends[0].receive(1)
    leaving.join(5)
    assert star.heard_by(0, 2) == ["process 1 of 3 ended while the others go on"] * 2


def suppress_gone(do: Any) -> None:
    with suppress(Gone):
        do()
