"""The terminal: texts that cannot take it over, and keys that need no Enter."""

import os
import select
import signal
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

try:
    import termios
    import tty
except ImportError:  # Windows, where every key wants its Enter
    termios = tty = None

END = "\x04"
"""Ctrl-D, and what is read where there is nothing more to read."""

ESCAPE = b"\x1b"

REST = 0.05
"""Seconds in which the rest of a key follows its first byte, over a slow line too."""


TURNS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""Classes of the signs that turn the direction of what follows them, a border or a column too."""


def harmless(text: str) -> str:
    """A text whose control characters, which could take over a terminal, are replaced."""
    return "".join("\ufffd" if controls(sign) else sign for sign in text)


def controls(sign: str) -> bool:
    """Whether a character does something to a terminal beside standing in it."""
    control = unicodedata.category(sign) == "Cc" and sign not in "\n\t"
    return control or unicodedata.bidirectional(sign) in TURNS


def read_key(stream: IO[str]) -> str:
    """One key of a terminal as soon as it is pressed; a line of anything else.

    What was typed before the call does not count: nobody answers what they have not seen.

    Args:
        stream: where it is read from.

    Returns:
        A character, or the sequence that stands for a key without one; ``END`` at the end.

    Raises:
        KeyboardInterrupt: for Ctrl-C.
    """
    if termios is None or not stream.isatty():
        line = stream.readline()
        return line.rstrip("\r\n") if line else END
    file = stream.fileno()
    with without_enter(file):
        data = os.read(file, 32)
        if data == ESCAPE and select.select([file], [], [], REST)[0]:
            data += os.read(file, 32)
    text = data.decode(errors="replace") or END
    return text if data.startswith(ESCAPE) else text[0]


@contextmanager
def without_enter(file: int) -> Iterator[None]:
    """Let a terminal hand over every key at once, unseen; however the block ends, it is put back.

    Args:
        file: descriptor of the terminal.
    """
    assert termios is not None and tty is not None
    before, hand_over = termios.tcgetattr(file), tty.setcbreak

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    def again(*_: object) -> None:
        hand_over(file)

    # A shell gives a program that it had suspended the terminal as the shell likes it.
    answers = {signal.SIGTERM: leave, signal.SIGHUP: leave, signal.SIGCONT: again}
    handlers = {number: signal.signal(number, answer) for number, answer in answers.items()}
    try:
        hand_over(file)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        with suppress(termios.error):  # it may be gone
            termios.tcsetattr(file, termios.TCSADRAIN, before)
