"""What the processes that are left say of one that ended: who, why, and what to do about it."""

import pytest

from llm.hosts import joining
from llm.hosts.line import Line
from llm.hosts.together import HERE

LINE = Line(1, 2, {}, lambda trouble: None)
ADVICE = "it goes on after step 6"


@pytest.mark.parametrize(
    ("error", "why", "advised"),
    [
        (MemoryError("no room"), "MemoryError: no room", True),
        # Something has to be seen to, and what step 6 is worth then is not known.
        (OSError("the checkpoint 6 is damaged"), "OSError: the checkpoint 6 is damaged", False),
        (OSError(5, "Input/output error"), "OSError: [Errno 5] Input/output error", False),
    ],
)
def test_the_others_say_who_ended_and_why_and_what_to_do(monkeypatch, capfd, error, why, advised):
    monkeypatch.setattr(HERE, "advice", lambda: ADVICE.removeprefix("it "))
    joining.tell(joining.farewell(LINE, error))
    said = capfd.readouterr().err
    assert said.startswith(f"process 1 of 2 ended ({why}); ") and said.endswith(".\n")
    assert "start the same command again on every host" in said
    assert (ADVICE in said) == advised == ("see to that" not in said)
