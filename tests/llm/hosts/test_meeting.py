"""How processes find each other, and what they are told when they do not."""

import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from llm.hosts import meeting
from llm.hosts.line import pack, read_message
from llm.hosts.meeting import meet_all
from llm.hosts.places import Place
from tests.llm.hosts.processes import free_port


def places(count: int) -> list[Place]:
    port = free_port()
    return [Place("127.0.0.1", port, count, index) for index in range(count)]


def met(*given: Place, timeout: float = 10.0) -> list[Future[Any]]:
    """What each finds, or meets."""
    with ThreadPoolExecutor(len(given)) as pool:
        return [pool.submit(meet_all, place, timeout) for place in given]


def test_all_come_and_are_told_where_jax_meets():
    found = [one.result() for one in met(*places(3))]
    connections, addresses = zip(*found, strict=True)
    assert [sorted(peers) for peers in connections] == [[1, 2], [0], [0]]
    assert len(set(addresses)) == 1 and addresses[0].startswith("127.0.0.1:")
    connections[0][2].sendall(pack("for 2"))
    assert read_message(connections[2][0]) == "for 2"
    for peers in connections:
        for connection in peers.values():
            connection.close()


def test_one_that_never_comes_is_named_to_those_who_did():
    first, second, _ = places(3)
    early, late = met(first, second, timeout=1.0)
    with pytest.raises(OSError, match=r"waited 1 s for process 2\. See whether") as told:
        early.result()
    assert f"process 0 of 3 at 127.0.0.1:{first.port}" in str(told.value)
    with pytest.raises(ValueError, match="waited 1 s for process 2"):
        late.result()


def test_one_that_finds_nobody_says_where_it_looked():
    (second,) = places(2)[1:]
    (found,) = met(second, timeout=0.5)
    with pytest.raises(
        OSError, match=r"process 1 of 2 at 127\.0\.0\.1:\d+ \(given\) could not"
    ) as e:
        found.result()
    assert "Connection refused" in str(e.value) and "--hosts.join-timeout" in str(e.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 3}, "process 1 was told of 3 processes and process 0 of 2"),
        ({"index": 0}, None),
    ],
)
def test_processes_that_were_told_different_things(change, words):
    first, second = places(2)
    found = met(first, replace(second, **change), timeout=1.5)
    errors = [str(one.exception()) for one in found]
    if words is None:  # two doors for one port
        assert any("cannot be opened" in error for error in errors)
    else:
        assert all(words in error for error in errors), errors


def test_two_with_one_name():
    first, second, _ = places(3)
    errors = [str(one.exception()) for one in met(first, second, second, timeout=3.0)]
    assert all("two processes are called 1" in error for error in errors), errors


def test_another_version_of_jax_is_refused(monkeypatch):
    first, second = places(2)
    greeting = meeting.greeting
    monkeypatch.setattr(meeting, "greeting", lambda p: greeting(p) | {"modeseek": "0.0.1"})
    errors = [str(one.exception()) for one in met(first, second, timeout=3.0)]
    assert all("process 1 has JAX 0.0.1" in error for error in errors), errors


STRANGERS: list[Callable[[socket.socket], Any]] = [
    lambda caller: caller.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"),
    lambda caller: caller.sendall(pack({"index": 1})),
    lambda caller: None,
    lambda caller: caller.close(),
]


@pytest.mark.parametrize("say", STRANGERS)
def test_a_stranger_at_the_door_is_passed_over(say):
    first, second = places(2)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(meet_all, first, 10.0)
        with closing(knocked(first.port)) as caller:
            say(caller)
            two = pool.submit(meet_all, second, 10.0)
            for found in (one, two):
                for connection in found.result()[0].values():
                    connection.close()


def knocked(port: int) -> socket.socket:
    """A connection, as soon as the door is open."""
    opened = threading.Event()
    for _ in range(100):
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            opened.wait(0.05)
    raise AssertionError("the door was never opened")
