"""How the processes of a run find each other: all call process 0, and it lets them in together.

Process 0 opens the port that was agreed on, the others call until it answers, and nobody goes on
before all are there. Whatever is wrong is said here, by name and within a time that was given:
JAX, which would come to the same end, leaves the interpreter without a word that a user could act
upon.
"""

import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import jax

from llm.hosts.line import keep_alive, pack, read_message
from llm.hosts.places import Place

HELLO = 1 << 16
"""Bytes a greeting has at most."""

ANSWERS, PAUSE = 10.0, 0.2
"""Seconds a caller has to say who it is, and between two calls."""

CHECK = (
    "See whether the same command runs on those hosts, with the same coordinator and count, and "
    "whether they reach that port. --hosts.join-timeout waits longer."
)


def meet_all(place: Place, timeout: float) -> tuple[dict[int, socket.socket], str]:
    """Wait until every process is there.

    Args:
        place: where this process stands.
        timeout: seconds.

    Returns:
        Connections as ``Line`` wants them, and where JAX's own coordinator is to be.

    Raises:
        OSError: if they did not come in time, or if the port is taken.
        ValueError: if they do not agree on how many they are, or two claim the same place.
    """
    return let_in(place, timeout) if place.index == 0 else call(place, timeout)


def described(place: Place) -> str:
    """Who waits where."""
    return f"process {place.index} of {place.count} at {place.host}:{place.port} ({place.found})"


def greeting(place: Place) -> dict[str, Any]:
    """What a process says of itself."""
    return {"modeseek": jax.__version__, "count": place.count, "index": place.index}


def refusal(place: Place, said: Any, there: Mapping[int, Any]) -> str | None:
    """Why a process cannot be let in; None if it can."""
    who = f"process {said['index']}"
    if said["count"] != place.count:
        return (
            f"{who} was told of {said['count']} processes and process 0 of {place.count}: give "
            "the same --hosts.count everywhere."
        )
    if said["index"] in there or said["index"] == 0:
        return f"two processes are called {said['index']}: give each its own --hosts.index."
    if said["modeseek"] != jax.__version__:
        return (
            f"{who} has JAX {said['modeseek']} and process 0 has {jax.__version__}: install the "
            "same version on every host."
        )
    return None


def let_in(place: Place, timeout: float) -> tuple[dict[int, socket.socket], str]:
    """Process 0: open the door until all are there."""
    deadline = time.monotonic() + timeout
    there: dict[int, socket.socket] = {}
    callers: queue.SimpleQueue[tuple[socket.socket, Any]] = queue.SimpleQueue()
    with closing(open_door(place)) as door:
        threading.Thread(target=listen, args=(door, callers.put), daemon=True).start()
        while len(there) < place.count - 1:
            try:
                connection, said = callers.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                missing = sorted(set(range(1, place.count)) - there.keys())
                names = f"process{'es' * (len(missing) > 1)} {', '.join(map(str, missing))}"
                trouble = f"{described(place)} waited {timeout:g} s for {names}. {CHECK}"
                turn_away(there.values(), trouble)
                raise OSError(trouble) from None
            trouble = refusal(place, said, there)
            if trouble is not None:
                turn_away([*there.values(), connection], trouble)
                raise ValueError(trouble)
            there[said["index"]] = connection
    port = free_port()
    for connection in there.values():
        keep_alive(connection)
        connection.sendall(pack({"port": port}))
    return there, joined_address(place.host, port)


def open_door(place: Place) -> socket.socket:
    """The port where all meet.

    Raises:
        OSError: if something else has it.
    """
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", place.port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise OSError(
            f"port {place.port} of this host cannot be opened ({error.strerror}), and "
            f"{described(place)} is to let the others in there: choose another port for the "
            "coordinator, or end what has it."
        ) from None


def listen(door: socket.socket, tell: Callable[[tuple[socket.socket, Any]], None]) -> None:
    """Hear who calls; each caller in a thread of its own, since some may have nothing to say."""

    def hear(connection: socket.socket) -> None:
        try:
            connection.settimeout(ANSWERS)
            said = read_message(connection, HELLO)
            connection.settimeout(None)
            if not isinstance(said, dict) or said.keys() != {"modeseek", "count", "index"}:
                raise OSError("no process of ours")
        except Exception:  # whatever a stranger says is none of our business
            connection.close()
        else:
            tell((connection, said))

    while True:
        try:
            connection, _ = door.accept()
        except OSError:  # all are there
            return
        threading.Thread(target=hear, args=(connection,), daemon=True).start()


def turn_away(connections: Any, trouble: str) -> None:
    """Tell callers why they are not let in."""
    for connection in connections:
        try:
            connection.sendall(pack({"trouble": trouble}))
        except OSError:
            continue
        finally:
            connection.close()


def call(place: Place, timeout: float) -> tuple[dict[int, socket.socket], str]:
    """Any other process: call process 0 until it answers, and wait to be let in."""
    deadline = time.monotonic() + timeout
    reason = "no answer"
    while time.monotonic() < deadline:
        connection = None
        try:
            connection = socket.create_connection((place.host, place.port), timeout=ANSWERS)
            connection.sendall(pack(greeting(place)))
            # Process 0 gives up by its own watch and says so; the rest is for its slower one.
            connection.settimeout(max(deadline - time.monotonic(), 0) + ANSWERS)
            answer = read_message(connection, HELLO)
            connection.settimeout(None)
        except Exception as error:
            hung_up = "it hung up" if isinstance(error, EOFError) else None
            reason = hung_up or getattr(error, "strerror", None) or str(error)
        else:
            if "port" in answer:
                keep_alive(connection)
                return {0: connection}, joined_address(place.host, answer["port"])
            connection.close()
            raise ValueError(answer["trouble"])
        if connection is not None:
            connection.close()
        time.sleep(PAUSE)
    raise OSError(
        f"{described(place)} could not reach process 0 there for {timeout:g} s ({reason}). {CHECK}"
    )


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def joined_address(host: str, port: int) -> str:
    """HOST:PORT, in brackets where the host is a number of IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
