"""A line between the processes of a run: what they tell each other, and who has gone silent.

Process 0 holds a connection to each of the others. Over it they agree on what is decided once for
all (what is on disk, whether to stop), and because the operating system closes the connections of a
process that ends, however it ends, everybody hears of a death at once and of whom. Arrays do not
travel here: they are the devices' business.

Only values travel: numbers, texts, containers, arrays, dataclasses of this project and errors.
Nothing that is received can name a function to be called.
"""

import io
import pickle
import queue
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

SIZE = struct.Struct(">Q")
"""What stands before every message: its length in bytes."""

IDLE, BETWEEN, TRIES = 10, 5, 4
"""A host that vanishes without a word is noticed after so many seconds of silence, and then so many
questions so many seconds apart: half a minute."""

PLAIN = frozenset({"set", "frozenset", "complex", "slice", "range", "bytearray"})
NUMPY = frozenset({"_reconstruct", "scalar", "_frombuffer", "ndarray", "dtype"})
PATHS = frozenset({"Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"})


class Gone(Exception):
    """Another process of the run has ended, and this one cannot go on without it."""


class Values(pickle.Unpickler):
    """Reads values and refuses whatever could be more."""

    def find_class(self, module: str, name: str) -> Any:
        """A type that may be received.

        Raises:
            pickle.UnpicklingError: for anything else.
        """
        package = module.partition(".")[0]
        if package in ("llm", "objectives", "ml_dtypes"):
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        elif package == "builtins":
            found = super().find_class(module, name)
            if name in PLAIN or (isinstance(found, type) and issubclass(found, Exception)):
                return found
        elif (package == "numpy" and name in NUMPY) or (package == "pathlib" and name in PATHS):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no value that a process may send")


def pack(value: Any) -> bytes:
    """A value as it travels."""
    data = pickle.dumps(value, protocol=5)
    return SIZE.pack(len(data)) + data


def unpack(data: bytes) -> Any:
    """A value as it was, from what stood behind its length."""
    return Values(io.BytesIO(data)).load()


def read_exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes.

    Raises:
        EOFError: if the other end was closed before.
    """
    data = bytearray(size)
    view, read = memoryview(data), 0
    while read < size:
        more = connection.recv_into(view[read:])
        if not more:
            raise EOFError
        read += more
    return bytes(data)


def read_message(connection: socket.socket, most: int | None = None) -> Any:
    """The next value.

    Args:
        connection: where it comes from.
        most: bytes it may have; any number if None.

    Raises:
        EOFError: if the other end was closed.
        OSError: if it cannot be read, or is longer.
    """
    (size,) = SIZE.unpack(read_exactly(connection, SIZE.size))
    if most is not None and size > most:
        raise OSError(f"a message of {size} bytes")
    return unpack(read_exactly(connection, size))


def keep_alive(connection: socket.socket) -> None:
    """Let the operating system ask whether the other host is still there."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    patience = {
        "TCP_KEEPIDLE": IDLE,
        "TCP_KEEPINTVL": BETWEEN,
        "TCP_KEEPCNT": TRIES,
        "TCP_USER_TIMEOUT": 1000 * (IDLE + BETWEEN * TRIES),
    }
    for name, value in patience.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Line:
    """What one process holds of the line.

    Args:
        index: of this process.
        count: of all.
        connections: process 0's to each of the others; of the others the one to process 0.
        alarm: told once, in a thread of its own, which process is gone.
    """

    def __init__(
        self,
        index: int,
        count: int,
        connections: Mapping[int, socket.socket],
        alarm: Callable[[str], None],
    ) -> None:
        self.index, self.count, self.alarm = index, count, alarm
        self.connections = dict(connections)
        self.heard: dict[int, queue.SimpleQueue[tuple[str, Any]]] = {
            peer: queue.SimpleQueue() for peer in connections
        }
        self.sending = {peer: threading.Lock() for peer in connections}
        self.trouble: str | None = None
        self.noticed, self.closed = threading.Event(), threading.Event()
        self.noticing = threading.Lock()
        for peer in self.connections:
            name = f"line to process {peer}"
            threading.Thread(target=self.watch, args=(peer,), name=name, daemon=True).start()

    def send(self, peer: int, value: Any) -> None:
        """Tell a process something.

        Raises:
            Gone: if that, or another, has ended.
        """
        self.transmit(peer, pack(("say", value)))

    def send_all(self, value: Any) -> None:
        """Tell every process at the other ends the same."""
        data = pack(("say", value))
        for peer in self.connections:
            self.transmit(peer, data)

    def transmit(self, peer: int, data: bytes) -> None:
        """Send what is packed."""
        try:
            with self.sending[peer]:
                self.connections[peer].sendall(data)
        except OSError:
            # Whoever watches that end says why; a moment later at most.
            self.notice(self.silence(peer))
            raise Gone(self.trouble) from None

    def receive(self, peer: int) -> Any:
        """What a process says next.

        Raises:
            Gone: if that, or another, has ended before it said anything.
        """
        kind, value = self.heard[peer].get()
        if kind == "say":
            return value
        if kind == "bye":
            self.notice(f"process {peer} of {self.count} ended while the others go on")
        raise Gone(self.trouble)

    def watch(self, peer: int) -> None:
        """Take in what a process says, until it ends."""
        left = False
        try:
            while True:
                kind, value = read_message(self.connections[peer])
                if kind == "trouble":
                    self.notice(value)
                    return
                left = left or kind == "bye"
                self.heard[peer].put((kind, value))
        except (EOFError, OSError):
            if not left and not self.closed.is_set():
                self.notice(self.silence(peer))
        except pickle.UnpicklingError as error:
            self.notice(f"process {peer} of {self.count} was not understood ({error})")

    def silence(self, peer: int) -> str:
        """What there is to say of a process that no longer answers."""
        return f"process {peer} of {self.count} is gone"

    def notice(self, trouble: str) -> None:
        """Somebody is gone: let everybody know, this process included."""
        with self.noticing:
            if self.trouble is not None:
                return
            self.trouble = trouble
        self.warn(trouble)
        for heard in self.heard.values():
            heard.put(("trouble", None))
        self.noticed.set()
        threading.Thread(target=self.alarm, args=(trouble,), name="alarm", daemon=True).start()

    def warn(self, trouble: str) -> None:
        """Tell every process at the other ends that the run is over; who is gone hears nothing."""
        data = pack(("trouble", trouble))
        for peer, connection in self.connections.items():
            try:
                with self.sending[peer]:
                    connection.sendall(data)
            except OSError:
                continue

    def part(self) -> None:
        """Wait until every process has come to its end, and close the line.

        Raises:
            Gone: if one has ended otherwise.
        """
        if self.index:
            self.transmit(0, pack(("bye", None)))
        for peer in self.connections:
            kind, _ = self.heard[peer].get()
            if kind == "say":
                self.notice(f"process {self.index} of {self.count} ended while the others go on")
            if kind != "bye":
                raise Gone(self.trouble)
        if not self.index:
            for peer in self.connections:
                self.transmit(peer, pack(("bye", None)))
        self.close()

    def close(self) -> None:
        """Let go of every connection; the other ends notice."""
        self.closed.set()
        for connection in self.connections.values():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
