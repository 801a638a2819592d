"""What several processes that run the same program do together: agree, share, divide work.

Every function here is called by every process at the same point, in the same order. With one
process they do nothing but what they are given, so no caller asks how many there are. An error that
one process meets is raised by all of them, so none waits for an answer that will never come.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from llm.hosts.line import SIZE, Line, pack, unpack

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Here:
    """Where this process stands.

    Attributes:
        index: of this process.
        count: of all.
        line: to the others; None where there are none.
        calls: how often the processes have met.
        advice: says what the same command will do if it is given again; for the last words of a
            process whose fellows are gone.
    """

    index: int = 0
    count: int = 1
    line: Line | None = None
    calls: int = 0
    advice: Callable[[], str] | None = None


HERE = Here()
"""Set once, when the processes have found each other."""


@dataclass(frozen=True, eq=False)
class Said:
    """What a process brings to a meeting.

    Attributes:
        where: the meeting, which must be the same for all.
        value: what it has; the error where it has none.
        failed: whether it has none.
    """

    where: str
    value: Any
    failed: bool = False


def count() -> int:
    """How many processes train together; each drives the devices of one host."""
    return HERE.count


def index() -> int:
    """Which of them this is."""
    return HERE.index


def is_first() -> bool:
    """Whether this is the process that writes, prints and decides for all."""
    return HERE.index == 0


@contextmanager
def alone() -> Iterator[None]:
    """Until the end of the block this process does something that is not the others' business."""
    before = HERE.index, HERE.count, HERE.line
    HERE.index, HERE.count, HERE.line = 0, 1, None
    try:
        yield
    finally:
        HERE.index, HERE.count, HERE.line = before


def gather(value: T) -> list[T]:
    """What every process has, in their order, on all of them."""
    return meet("gather", lambda: value)


def share(value: T) -> T:
    """What process 0 has, on all of them."""
    return from_first(lambda: value)


def agree(flag: bool) -> bool:
    """Whether any process says so."""
    return any(gather(bool(flag)))


def from_first(make: Callable[[], T]) -> T:
    """Let process 0 alone make something, and give it to all.

    Raises:
        Exception: what process 0 met, on all of them.
    """
    line = HERE.line
    if line is None:
        return make()
    where = meeting("from_first")
    if is_first():
        mine = attempt(where, make)
        line.send_all(mine)
    else:
        mine = line.receive(0)
        check(0, mine, where)
    return values_of([mine])[0]


def in_turn(make: Callable[[], T]) -> T:
    """Let process 0 make something first, and then the others, who may find it made.

    What is made is kept in a folder that some hosts share and others do not.

    Raises:
        Exception: what process 0 met, on all of them.
    """
    made: list[T] = []
    from_first(lambda: made.append(make()))
    with alone():
        return made[0] if made else make()


def each_own(items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """Divide work: every process does its run of the items, and all get all the results.

    Args:
        items: the same on every process.
        work: one result for each of the items it is given, which may be none.

    Returns:
        The results in the order of the items.

    Raises:
        Exception: what the first process that failed met, on all of them.
    """
    if HERE.line is None:
        return list(work(items))
    mine = items[own(len(items))]
    return [result for part in meet("each_own", lambda: list(work(mine))) for result in part]


def own(number: int) -> slice:
    """Which of so many items are this process's: runs as even as can be, one after the other."""
    return slice(number * HERE.index // HERE.count, number * (HERE.index + 1) // HERE.count)


def check_same(what: str, value: Any) -> None:
    """Raise ValueError, on every process, unless all have the same.

    Args:
        what: the name of it, for the message.
        value: to be compared; a dictionary's keys are named where they differ.
    """
    if HERE.line is None:
        return
    found = gather(value)
    for peer, other in enumerate(found):
        if other != found[0]:
            error = ValueError(
                f"processes 0 and {peer} do not have the same {what}: "
                f"{differences(found[0], other)}. Give the same command on every host, with the "
                "same model, data and versions."
            )
            raise shared(error)


def differences(one: Any, other: Any) -> str:
    """Where two values differ, by key where they have keys."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return f"{one!r} and {other!r}"
    keys = sorted(one.keys() | other.keys())
    different = [key for key in keys if one.get(key) != other.get(key)]
    return "; ".join(f"{key}: {one.get(key)!r} and {other.get(key)!r}" for key in different)


def meet(kind: str, make: Callable[[], T]) -> list[T]:
    """What every process makes, in their order, on all of them."""
    line = HERE.line
    if line is None:
        return [make()]
    where = meeting(kind)
    mine = attempt(where, make)
    if is_first():
        said = [mine, *(line.receive(peer) for peer in range(1, HERE.count))]
        for peer, other in enumerate(said):
            check(peer, other, where)
        line.send_all(said)
    else:
        line.send(0, mine)
        said = line.receive(0)
    return values_of(said)


def meeting(kind: str) -> str:
    """The name of the next meeting."""
    HERE.calls += 1
    return f"{kind}, number {HERE.calls}"


def attempt(where: str, make: Callable[[], Any]) -> Said:
    """What came of it, or what came in between, as it can travel."""
    try:
        with alone():
            return Said(where, make())
    except Exception as error:
        try:
            unpack(pack(error)[SIZE.size :])
        except Exception:
            # An error of somebody else's making may not be known elsewhere.
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return Said(where, error, failed=True)


def check(peer: int, said: Said, where: str) -> None:
    """Raise RuntimeError if another process is elsewhere in the program."""
    if said.where != where:
        raise RuntimeError(
            f"the processes have come apart: this one is at {where}, process {peer} at "
            f"{said.where}. That is a defect of this program."
        )


def values_of(said: Sequence[Said]) -> list[Any]:
    """What was brought to a meeting; the first error is raised."""
    for peer, one in enumerate(said):
        if one.failed:
            raise named(one.value, peer)
    return [one.value for one in said]


SHARED = "every process of the run has met this error"


def is_shared(error: BaseException) -> bool:
    """Whether every process has met an error, because they met it together."""
    return HERE.line is None or SHARED in getattr(error, "__notes__", ())


def shared(error: Exception) -> Exception:
    """An error that every process raises at the same place: they end together, as by design."""
    if HERE.line is not None:
        error.add_note(SHARED)
    return error


def named(error: Exception, peer: int) -> Exception:
    """An error that is raised by all, and says which other process met it, where it can."""
    shared(error)
    if peer != HERE.index and len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (f"process {peer} of {HERE.count}: {error.args[0]}",)
    return error
