"""One process at a time writes into a folder; a second one is told so before it begins.

The operating system holds the lock and lets go of it when the process ends, however it ends, so
what a kill leaves behind keeps nobody out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"
"""In the folder; it stays there and is empty."""


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep others from writing into a folder until the end of the block; it is made if absent.

    Raises:
        OSError: if another process writes into it, or if nobody can.
    """
    lock = FileLock(folder / LOCK, blocking=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise OSError(
            f"{folder} is being written to by another process. Wait until it has ended, stop it, "
            "or choose another folder."
        ) from None
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written to ({error.strerror}). What is in it is untouched: see to "
            "the disk, or choose another folder."
        ) from None
    try:
        yield
    finally:
        lock.release()


def check_unused(folder: Path) -> None:
    """Raise OSError if another process writes into a folder; nothing is made."""
    if (folder / LOCK).exists():
        with only_writer(folder):
            pass
