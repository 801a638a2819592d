"""Where things live that can be made again: models of our own, reference passes, programs."""

import os
import platform
import zlib
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


def cache_folder() -> Path:
    """$MODESEEK_CACHE, or the user's cache folder."""
    named = os.environ.get("MODESEEK_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "modeseek"


def program_folder() -> Path:
    """For compiled programs: one for each kind of processor, since they do not run on another."""
    kind = platform.machine() + platform.processor()
    if CPU_INFO.is_file():
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
        kind += "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
    return cache_folder() / "programs" / f"{zlib.crc32(kind.encode()):08x}"
