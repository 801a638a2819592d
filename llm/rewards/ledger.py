"""What a judge was asked and answered, kept so that nothing paid for is asked again or lost.

The file has a line of JSON for every request, written and forced to the disk before the answer is
used, so a kill at any moment costs at most the requests that were under way. The lines hold the
texts, so the file is also a preference data set. What was spent is read back from it, so caps hold
over sessions. A request must reserve the most it can cost before it is made, so requests under way
together never add up to more than the cap.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition
from typing import Any

FLAGS = "--rewards.judge."
"""What the flags of the caps begin with."""


class CapReached(Exception):
    """One more request could cost more than may be spent."""


@dataclass(eq=False)
class Ledger:
    """Answers by key, on disk and in memory; any number of threads may use it.

    Attributes:
        path: the file.
        max_calls: requests that may be made, those in the file included.
        max_cost: dollars that may be spent, those in the file included; None for any.
        answers: lines of what was answered, by key.
        calls: requests that were made.
        dollars: what they cost.
    """

    path: Path
    max_calls: int
    max_cost: float | None
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: int = 0
    dollars: float = 0.0
    under_way: int = 0
    reserved: float = 0.0
    changed: Condition = field(default_factory=Condition)

    def reserve(self, dollars: float) -> None:
        """Wait until there is room for one more request, and keep it.

        Args:
            dollars: the most that it can cost.

        Raises:
            CapReached: if there will be none.
        """
        with self.changed:
            while not self.has_room(dollars):
                if not self.under_way:
                    raise CapReached(self.limits(dollars))
                self.changed.wait()  # one under way may cost less than it could have
            self.under_way += 1
            self.reserved += dollars

    def has_room(self, dollars: float) -> bool:
        """Whether a request of at most this cost stays within both caps."""
        if self.calls + self.under_way >= self.max_calls:
            return False
        return self.max_cost is None or self.dollars + self.reserved + dollars <= self.max_cost

    def limits(self, dollars: float) -> str:
        """Which cap is reached, in words."""
        if self.calls >= self.max_calls:
            return f"{self.calls} requests were made, and {FLAGS}max-calls is {self.max_calls}"
        return (
            f"{self.dollars:.4f} dollars were spent, one more request could cost {dollars:.4f}, "
            f"and {FLAGS}max-cost is {self.max_cost:g}"
        )

    def settle(self, reserved: float, line: dict[str, Any]) -> None:
        """Write down a request that has ended, well or not, and give back what it had reserved.

        Args:
            reserved: dollars, as given to ``reserve``.
            line: what there is to say of it, with ``dollars``; an answer has ``key`` and
                ``winner``.
        """
        with self.changed:
            try:
                append(self.path, line)
            finally:
                self.under_way -= 1
                self.reserved -= reserved
                self.enter(line)
                self.changed.notify_all()

    def enter(self, line: dict[str, Any]) -> None:
        """Count a line, and remember it if it is an answer."""
        self.calls += 1
        self.dollars += line["dollars"]
        if "winner" in line:
            self.answers.setdefault(line["key"], line)


def open_ledger(path: Path, max_calls: int, max_cost: float | None) -> Ledger:
    """Read what was answered before; a line that a kill cut short is passed over.

    Raises:
        OSError: if the file cannot be read and written.
    """
    ledger = Ledger(path, max_calls, max_cost)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            file.seek(0)
            text = file.read()
            if text and not text.endswith(b"\n"):
                file.write(b"\n")
    except OSError as error:
        raise OSError(
            f"The answers of the judge cannot be kept in {path} ({error.strerror}): give a folder "
            "that can be written to."
        ) from None
    for line in text.splitlines():
        try:
            ledger.enter(json.loads(line))
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
            continue
    return ledger


def append(path: Path, line: dict[str, Any]) -> None:
    """Add one line and wait until it is on the disk."""
    # Half a character of a text that is broken in itself is escaped, which JSON can read back.
    text = json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace")
    with path.open("ab") as file:
        file.write(text + b"\n")
        file.flush()
        os.fsync(file.fileno())
