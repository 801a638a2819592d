"""How a process finds the others of its run."""

from dataclasses import dataclass

from objectives.hyperparameters import require


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    """Several processes that train one model: the same command on every host.

    Nothing need be given on one host, under Slurm or Open MPI, or on a TPU slice, where it is found
    out. Elsewhere give all of coordinator, count and index, or set MODESEEK_COORDINATOR,
    MODESEEK_COUNT and MODESEEK_INDEX.
    """

    coordinator: str | None = None
    """HOST:PORT of process 0, where all meet; any free port of that host."""
    count: int | None = None
    """How many processes there are."""
    index: int | None = None
    """Which of them this is, from 0."""
    join_timeout: int = 300
    """Seconds to wait for the others to come."""
    port: int = 0
    """Port of process 0 for messages between processes beside the coordinator's; any free one when
    0."""

    def __post_init__(self) -> None:
        given = [self.coordinator, self.count, self.index]
        require(
            self.coordinator is None or ":" in self.coordinator,
            self,
            "coordinator",
            "HOST:PORT",
        )
        require(self.count is None or self.count >= 1, self, "count", "at least 1 process")
        require(
            self.index is None or (self.count is not None and 0 <= self.index < self.count),
            self,
            "index",
            f"a process from 0 to count - 1 (count is {self.count})",
        )
        require(
            all(value is None for value in given) or all(value is not None for value in given),
            self,
            "count",
            "given together with coordinator and index",
        )
        require(self.join_timeout >= 1, self, "join_timeout", "at least 1 second")
        require(0 <= self.port < 2**16, self, "port", "a TCP port, or 0")
