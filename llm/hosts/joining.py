"""Several processes become one run, and end as one.

``joined`` is a block around all that a run does. Within it the devices of all hosts are JAX's, and
every process knows its place. A process that ends otherwise than with the others takes them along,
with a last line that says who it was and what to do; none is left waiting for it.
"""

import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import jax

from llm.hosts.line import Gone, Line
from llm.hosts.meeting import meet_all
from llm.hosts.places import Place, find_place
from llm.hosts.settings import HostSettings
from llm.hosts.together import HERE, is_shared
from llm.simulated import give_threads

HEARTBEAT = 60
"""Seconds without a sign of life after which JAX's coordinator gives a process up. The line notices
sooner, but for a host that hangs and keeps its connections."""

GRACE = 5.0
"""Seconds in which the main thread may end by itself when another process is gone; it cannot while
it waits for a device that waits for that process."""

REASON = 2.0
"""Seconds by which news of a death may come after its consequences."""

AGAIN = "start the same command again on every host"

REFUSED = 2
"""Exit status of a command that cannot be carried out as it was given."""

TRY_AGAIN = 75
"""Exit status of a process that ended because another had (EX_TEMPFAIL of sysexits)."""


@contextmanager
def joined(settings: HostSettings, say: Callable[[str], None] = print) -> Iterator[None]:
    """Until the end of the block this process is one of those that were asked for.

    To be entered before the first use of a device. Alone, nothing happens.

    Args:
        settings: where it stands, unless that can be found out.
        say: told, on process 0, who is there.

    Raises:
        OSError: if the others do not come in time.
        ValueError: if they do not agree.
    """
    give_threads()
    place = find_place(settings)
    if place is None:
        yield
        return
    told, over = threading.Event(), threading.Event()

    def alarm(trouble: str) -> None:
        tell(trouble)
        told.set()
        if not over.wait(GRACE):
            leave()

    line, coordinator = connect(place, float(settings.join_timeout), alarm)
    try:
        unite(place, coordinator, settings)
        devices = jax.device_count()  # all processes wait for each other here
        if place.index == 0:
            say(f"{place.count} processes are there, with {devices} devices")
        yield
        part(line)
    except BaseException as error:
        common = is_common(error)
        end(line, error, common, told)
        if place.index and common:
            raise SystemExit(status(error)) from error  # process 0 says it for all
        raise
    finally:
        over.set()


def connect(place: Place, timeout: float, alarm: Callable[[str], None]) -> tuple[Line, str]:
    """Meet the others, whose devices stay their own.

    Returns:
        The line to them, and where JAX's coordinator is to be.
    """
    connections, coordinator = meet_all(place, timeout)
    line = Line(place.index, place.count, connections, alarm)
    HERE.index, HERE.count, HERE.line = place.index, place.count, line
    return line, coordinator


def unite(place: Place, coordinator: str, settings: HostSettings) -> None:
    """Make one machine of all devices; the others are there and do the same."""
    # A request to stop is heard by the training loop, which answers for all; JAX would swallow it.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        coordinator,
        num_processes=place.count,
        process_id=place.index,
        local_device_ids=place.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=settings.join_timeout,
        heartbeat_timeout_seconds=HEARTBEAT,
        shutdown_timeout_seconds=HEARTBEAT,
    )


def part(line: Line) -> None:
    """End together."""
    line.part()
    HERE.line, HERE.index, HERE.count = None, 0, 1
    jax.distributed.shutdown()


def end(line: Line, error: BaseException, common: bool, told: threading.Event) -> None:
    """End because of an error; where somebody else's end is its cause, this process ends here.

    Args:
        line: to the others.
        error: the reason.
        common: whether all have met it: then they end together, else with a word to the others.
        told: set when it was said who else has ended.
    """
    # Devices fail too when their fellows are gone: what comes first says nothing of the cause.
    sudden = not isinstance(error, (SystemExit, KeyboardInterrupt, ValueError, OSError))
    try:
        if common:
            part(line)
            return
        noticed = line.noticed.wait(REASON if sudden else 0)
        if isinstance(error, Gone) or (noticed and not isinstance(error, ValueError)):
            raise Gone
    except Gone:
        told.wait(GRACE)
        leave()
    line.warn(farewell(line, error))
    line.close()
    # JAX would wait for the others when the interpreter ends, and they will not come.
    atexit.register(os._exit, status(error))


def farewell(line: Line, error: BaseException) -> str:
    """What the others are told; a whole sentence, with a full stop, where it says what to do."""
    ended = f"process {line.index} of {line.count} ended ({cause(error)})"
    # What has to be seen to first may be what the others would go on from.
    return f"{ended}; see to that, then {AGAIN}." if status(error) == REFUSED else ended


def status(error: BaseException) -> int:
    """The exit status of a command that an error ends."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        return 130
    return REFUSED if isinstance(error, (ValueError, OSError, FloatingPointError)) else 1


def is_common(error: BaseException) -> bool:
    """Whether all processes meet an error: told by one to all, a sum over all, a request to all."""
    if isinstance(error, SystemExit):
        return isinstance(error.code, int) and error.code > 128
    return is_shared(error) or isinstance(error, FloatingPointError)


def cause(error: BaseException) -> str:
    """What ended a process, in a line."""
    said = next(iter(str(error).strip().splitlines()), "")
    name = type(error).__name__
    return f"{name}: {said}" if said else name


def tell(trouble: str) -> None:
    """Say who is gone and what to do, at once: JAX may end this process at any moment now."""
    line = trouble
    if not line.endswith("."):
        line += f"; {AGAIN}"
        if HERE.advice is not None:
            with suppress(OSError):
                line += f": it {HERE.advice()}"
        line += "."
    with suppress(OSError):
        os.write(sys.stderr.fileno(), f"{line}\n".encode())


def leave() -> NoReturn:
    """End this process without waiting for anybody."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(TRY_AGAIN)
