"""The command line, in a process to which something happens at a moment that a test has chosen.

The first word says what and when, such as ``kill-step-3``: what comes, where, and the how-manieth
time that place is come to; ``kill-step-3-1`` in process 1 alone.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

HAPPENS: dict[str, Callable[[], Any]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "term": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "hang": lambda: time.sleep(600),
}


def arm(what: str, where: str, number: int) -> None:
    """Let something happen at the so-many-th time that a place is come to, from 1."""
    from llm import responses
    from llm.rewards import RewardError
    from llm.state import Saver
    from llm.step import Step

    owner, name = {
        "step": (Step, "__call__"),
        "save": (Saver, "save"),
        "judge": (responses.Judges, "judge"),
    }[where]
    original, calls = getattr(owner, name), []

    def fail() -> None:
        raise RewardError("the judge is down. Give the same command again.")

    def instead(*given: Any) -> Any:
        calls.append(None)
        if where == "judge" and len(calls) == number:
            (HAPPENS | {"fail": fail})[what]()
        found = original(*given)
        if where != "judge" and len(calls) == number:
            HAPPENS[what]()  # what was begun goes on in other threads, or on the device
        return found

    setattr(owner, name, instead)


if __name__ == "__main__":
    moment = sys.argv.pop(1)
    from modeseek.cli import main
    from modeseek.train import quiet

    quiet()
    what, where, number, index, *_ = *moment.split("-"), None, None, None
    if number is not None and index in (None, os.environ.get("MODESEEK_INDEX")):
        arm(what, where, int(number))
    main()
