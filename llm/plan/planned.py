"""What a plan says of a run: memory by kind, the programs of a step, bounds of time and cost.

Bytes are those of one device. Times are bounds, not forecasts: no program is faster than its
roofline, and a step is its programs one after the other.
"""

from dataclasses import dataclass

from llm.plan.roofline import Roofline

ALWAYS = "always"
"""When something is held that is there whichever program runs."""

UNREAD = "weights to write with, not read here"
"""What is held while a program runs that is not given them."""


@dataclass(frozen=True)
class Held:
    """A kind of memory: what it is, bytes on one device, and during which program; or always."""

    what: str
    bytes: float | int
    when: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """A program's share of a step.

    Attributes:
        name: of the program.
        runs: how often it runs in a step.
        flops: of all those runs, on all devices, what is computed twice and padding included.
        bound: the least time that all those runs take.
        exchanges: times and bytes that a device sends, by kind of collective, in all those runs.
        moved: bytes that a device reads and writes, in all those runs.
        total: bytes of a device while it runs, by the compiler's account.
        given: what of the memory that is always there is among its arguments, by kind.
        seconds: that compiling it took.
    """

    name: str
    runs: float | int
    flops: float | int
    bound: Roofline
    exchanges: dict[str, tuple[float, float]]
    moved: float | int
    total: int
    given: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What the compiler says of a run; bytes are those of one device.

    Attributes:
        recipe: its name.
        topology: of the slice.
        chips: of it.
        mesh: sizes of the axes.
        remat: what is computed again.
        rows: of a micro-batch on one shard.
        length: positions of a row.
        micro_batches: that a step is cut to.
        batch: groups of a step.
        steps: of the run.
        tokens: positions that a step trains on; padding is none.
        flops: arithmetic that a step cannot do without, on all devices.
        peak_flops: what all chips could do, FLOP/s.
        memory: by kind.
        usable: bytes that the compiler lets a program have.
        parts: of a step; none where it does not fit.
        price: US dollars per chip and hour.
        refused: what the compiler said where it would not compile; None where it did.
        needs: bytes that the refused program would need by itself; None where it is not said.
    """

    recipe: str
    topology: str
    chips: int
    mesh: dict[str, int]
    remat: str
    rows: int
    length: int
    micro_batches: int
    batch: int
    steps: int
    tokens: float | int
    flops: float | int
    peak_flops: float
    memory: tuple[Held, ...] = ()
    usable: float
    parts: tuple[Part, ...] = ()
    price: float
    refused: str | None = None
    needs: float | None = None

    def held(self, when: str) -> float | int:
        """Bytes while a program runs, those that are always there included."""
        return sum(item.bytes for item in self.memory if item.when in (ALWAYS, when))

    @property
    def fullest(self) -> str:
        """The program during which most is held."""
        return max((item.when for item in self.memory), key=self.held, default=ALWAYS)

    @property
    def peak(self) -> float | int:
        """Bytes when most is held; of a refused run at least those."""
        return max(self.held(self.fullest), self.needs or 0.0)

    @property
    def fits(self) -> bool:
        """Whether a chip holds that."""
        return self.refused is None and self.peak <= self.usable

    @property
    def step_seconds(self) -> float:
        """The least time a step takes: its programs run one after the other."""
        return sum((part.bound.seconds for part in self.parts), 0.0)

    @property
    def tokens_per_second(self) -> float:
        """At most, all chips together."""
        return self.tokens / self.step_seconds

    @property
    def mfu(self) -> float:
        """Share of the chips' peak that useful arithmetic can reach."""
        return self.flops / (self.step_seconds * self.peak_flops)

    @property
    def dollars_per_million_tokens(self) -> float:
        """At least, of positions trained on."""
        return self.dollars_per_step / self.tokens * 1e6

    @property
    def dollars_per_step(self) -> float:
        """At least."""
        return self.step_seconds / 3600 * self.chips * self.price

    @property
    def dollars(self) -> float:
        """At least, of the whole run."""
        return self.steps * self.dollars_per_step

    def counted(self, part: Part) -> float | int:
        """Bytes of a device while a program runs, kind by kind: what the compiler should say."""
        always = sum(x.bytes for x in self.memory if x.when == ALWAYS and x.what in part.given)
        own = (x.bytes for x in self.memory if x.when == part.name and x.what != UNREAD)
        return always + sum(own)
