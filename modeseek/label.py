"""``modeseek label``: a person says which of two responses is better; a key is an answer.

Who reads from left to right may come to prefer what stands left, so which response that is depends
on a hash of the pair: even over many pairs, and the same whenever a pair comes up. What is answered
is turned back to the responses in one place. Every answer is on the disk before the next pair is
shown, and the work is found again where somebody left it.
"""

import getpass
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.box import ROUNDED
from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from modeseek.terminal import END, harmless, read_key

if TYPE_CHECKING:
    from llm.active.labels import Desk, Winner
    from llm.rollouts import Rollout

Action = Literal["left", "right", "neither", "back", "help", "quit"]
Order = tuple[Literal["first", "second"], Literal["first", "second"]]

KEYS: dict[str, Action] = {
    "a": "left",
    "\x1b[D": "left",
    "\x1bOD": "left",
    "b": "right",
    "\x1b[C": "right",
    "\x1bOC": "right",
    " ": "neither",
    "u": "neither",
    "z": "back",
    "\x7f": "back",
    "\b": "back",
    "?": "help",
    "q": "quit",
    END: "quit",
}
"""What a key means; some terminals have two sequences for an arrow, or another backspace."""

LEGEND = (
    ("a ←", "left"),
    ("b →", "right"),
    ("space", "neither"),
    ("z", "back"),
    ("?", "help"),
    ("q", "quit"),
)
"""Keys as they are named on the screen."""

HELP = (
    ("a, ←", "the response on the left is better (a narrow terminal has it above)"),
    ("b, →", "the response on the right is better (or below)"),
    ("space, u", "neither is: the pair teaches nothing, and another takes its place"),
    ("z, backspace", "show the pair before this one; a new answer replaces the old one"),
    ("q, Ctrl-C, Ctrl-D", "leave; every answer is kept, and the same command goes on"),
)

FOLDER_WANTED = "give the folder of a campaign: modeseek active ... --reward person"

NARROW, WIDE = 60, 160
"""Columns below which responses stand one below the other, and that lines are wide at most."""

SURE = 3
"""Answers from which on a pace can be told."""

PATIENCE = 90
"""Minutes up to which the time left is told in minutes."""


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """Answer what a campaign asks: which of two responses is better? A single key is an answer.

    For `modeseek active ... --reward person`. When all is answered, that command goes on.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the campaign."""
    name: str | None = None
    """Who answers, kept beside each answer; your login name when not given."""


def main(arguments: list[str]) -> None:
    """Parse the line and ask."""
    labelling = tyro.cli(Labelling, args=arguments, prog="modeseek label")
    label(labelling, Console(highlight=False))


def label(labelling: Labelling, console: Console) -> None:
    """Show one pair after the other until all is decided, or somebody leaves.

    Args:
        labelling: whose pairs, and who answers.
        console: where they are shown.

    Raises:
        ValueError: if no person is asked there, and what to do.
        OSError: if something cannot be read or written, or if the campaign goes on meanwhile.
    """
    from llm.lock import only_writer

    name, run = name_of(labelling), labelling.run
    acquisition = campaign_of(run)
    with only_writer(run):
        desk = newest_desk(run)
        if desk.waiting():
            Session(desk, f"person:{name}", console).carry_out()
        else:
            console.print("Nothing waits for a person.")
        console.print(farewell(desk, run, acquisition), soft_wrap=True)  # to be copied


def name_of(labelling: Labelling) -> str:
    """Who answers.

    Raises:
        ValueError: if there is no telling.
    """
    if labelling.name is not None:
        name = labelling.name.strip()
    else:
        try:
            name = getpass.getuser()
        except (OSError, KeyError, ImportError):  # a container need not know its users
            name = ""
    if not name:
        raise ValueError("there is no telling who answers: give --name.")
    return name


def campaign_of(run: Path) -> str:
    """The acquisition function of a campaign that asks a person.

    Raises:
        ValueError: if the folder is that of anything else.
    """
    from llm.state import RUN

    if not run.is_dir():
        raise ValueError(f"there is no folder {run}: {FOLDER_WANTED}.")
    try:
        record = json.loads((run / RUN).read_text(encoding="utf-8"))
        acquisition, reward = record["acquisition"], record["settings"]["reward"]
    except (FileNotFoundError, KeyError, TypeError):
        raise ValueError(f"{run} holds no campaign: {FOLDER_WANTED}.") from None
    except ValueError as error:
        raise ValueError(f"{run / RUN} cannot be read ({error}): {FOLDER_WANTED}.") from None
    if (reward or "").strip() != "person":
        raise ValueError(
            f"{run} is labelled by {reward or 'the reward of its data'}, which needs no help: only "
            "a campaign that was started with --reward person asks one."
        )
    return acquisition


def newest_desk(run: Path) -> "Desk":
    """The work there is: the pool that was made last.

    Raises:
        ValueError: if there is none yet.
        OSError: if it cannot be read.
    """
    from llm.active.labels import Desk, open_labels
    from llm.active.pool import pool_files, read_pool

    files = pool_files(run)
    if not files:
        raise ValueError(
            f"{run} holds no pairs yet: its campaign was stopped before it had chosen any. Give "
            "the `modeseek active` command again; it says when pairs wait."
        )
    pool = read_pool(files[-1])
    return Desk(pool.rollouts, pool.facts["wanted"], open_labels(run))


def farewell(desk: "Desk", run: Path, acquisition: str) -> str:
    """How far the work is, and what goes on with it, as markup."""
    from llm.state import MODEL

    decided, folder = len(desk.decided), escape(shlex.quote(str(run)))
    if desk.waiting():
        return (
            f"{decided} of {desk.wanted} decided, all on the disk. "
            f"[bold]modeseek label {folder}[/] goes on."
        )
    if (run / MODEL).exists():
        return f"The campaign is complete: {escape(str(run / MODEL))}"
    if decided == desk.wanted:
        said, then = f"All {decided} are decided.", "learns from them"
    else:
        said = (
            f"{decided} of {desk.wanted} decided, and no pair is left ({desk.undecided} neither)."
        )
        then = "writes others"
    return (
        f"{said} Give the command of the campaign again, and it {then}:\n"
        f"[bold]modeseek active {escape(acquisition)} ... --reward person --out {folder}[/]"
    )


@dataclass(eq=False)
class Session:
    """One sitting of a person at a desk.

    Attributes:
        desk: the pairs.
        by: who answers.
        console: where they are shown.
        key: says which key is pressed.
        seconds: that each answer took.
    """

    desk: "Desk"
    by: str
    console: Console
    key: Callable[[], str] = field(default=lambda: read_key(sys.stdin))
    seconds: list[float] = field(default_factory=list)

    def carry_out(self) -> None:
        """Ask until nothing waits or the person leaves."""
        try:
            pair = self.next()
            while pair is not None:
                pair = self.ask(pair)
        except KeyboardInterrupt:
            self.console.print()

    def next(self) -> "Rollout | None":
        """The pair to ask about."""
        return next(iter(self.desk.waiting(1)), None)

    def before(self, pair: "Rollout | None") -> "Rollout | None":
        """The pair that was asked about before another one, or last of all."""
        found = None
        for earlier in self.desk.pairs:
            if pair is not None and earlier.prompt_id == pair.prompt_id:
                break
            if earlier.prompt_id in self.desk.labels.known:
                found = earlier
        return found

    def ask(self, pair: "Rollout") -> "Rollout | None":
        """Show a pair until it is answered, or the person wants another one.

        Returns:
            What to show next; None if the person leaves, or has nothing more to do.
        """
        order = order_of(pair)
        self.show(pair, order)
        began = time.monotonic()
        while True:
            action = self.action()
            if action == "help":
                self.console.print(help_table())
            elif action == "quit":
                return None
            elif action == "back":
                earlier = self.before(pair)
                if earlier is not None:
                    return earlier
                self.console.print("There is no pair before this one.")
            elif action is not None:
                seconds = time.monotonic() - began
                self.seconds.append(seconds)
                self.desk.labels.add(
                    pair, winner(action, order), self.by, left=order[0], seconds=round(seconds, 1)
                )
                return self.next() or self.last_look()

    def action(self) -> Action | None:
        """What the person wants; None, and a word about it, for a key that means nothing."""
        key = self.key()
        action = KEYS.get(key) or KEYS.get(key.lower())
        if action is None:
            self.console.print(f"{escape(repr(key))} means nothing here. There is:", legend())
        return action

    def last_look(self) -> "Rollout | None":
        """When all is answered: the last pair, should its answer have been a slip."""
        self.console.print(
            "\nThat was the last pair. [bold cyan]z[/] goes back to it, any other key ends."
        )
        return self.before(None) if KEYS.get(self.key().lower()) == "back" else None

    def show(self, pair: "Rollout", order: Order) -> None:
        """Put a pair on the screen, what stands left first."""
        if self.console.is_terminal:
            self.console.clear()  # every pair at the same place
        said = progress(len(self.desk.decided), self.desk.wanted, self.seconds)
        self.console.print(Text(said, style="bold"))
        known = self.desk.labels.known.get(pair.prompt_id)
        if known is not None:
            side = {order[0]: "left", order[1]: "right"}.get(known.winner, "neither")
            by = known.by.removeprefix("person:")
            self.console.print(f"[yellow]answered before: {side}, by {escape(by)}[/]")
        texts = dict(zip(("first", "second"), (y.response for y in pair.responses), strict=True))
        width = min(self.console.width, WIDE)
        prompt = pair.responses[0].prompt
        self.console.print(screen(prompt, [texts[which] for which in order], width))
        self.console.print(legend())


def order_of(pair: "Rollout") -> Order:
    """Which response stands left, and which right."""
    from llm.rewards.judge import digest

    texts = (written.response for written in pair.responses)
    turned = int(digest(str(pair.prompt_id), *texts)[:8], 16) % 2 == 1
    return ("second", "first") if turned else ("first", "second")


def winner(action: Literal["left", "right", "neither"], order: Order) -> "Winner":
    """Which response an answer names: the one place where sides are turned back."""
    if action == "neither":
        return "undecided"
    return order[0] if action == "left" else order[1]


def progress(decided: int, wanted: int, seconds: Sequence[float]) -> str:
    """How far one is, and how long the rest takes at one's own pace."""
    said = f"{decided} of {wanted} decided"
    if len(seconds) < SURE or decided == wanted:
        return said
    minutes = median(seconds) * (wanted - decided) / 60
    if minutes < 1:
        left = "less than a minute"
    elif minutes < PATIENCE:
        left = f"about {minutes:.0f} min"
    else:
        left = f"about {minutes / 60:.1f} h"
    return f"{said}, {left} left"


def screen(prompt: str, sides: Sequence[str], width: int) -> RenderableType:
    """A prompt and two responses, side by side where there is room.

    Args:
        prompt: what both answer.
        sides: what stands left and what stands right.
        width: columns.
    """
    whole = Table.grid()
    whole.add_column(width=width, overflow="fold")
    whole.add_row(Panel(shown(prompt), title="prompt", title_align="left", border_style="dim"))
    keys = [Text(key, style="bold cyan") for key, _ in LEGEND[:2]]
    if width < NARROW:
        for key, text in zip(keys, sides, strict=True):
            whole.add_row(Panel(shown(text), title=key, title_align="left"))
        return whole
    table = Table(box=ROUNDED, expand=True)
    for key in keys:
        table.add_column(key, ratio=1, overflow="fold")
    table.add_row(*map(shown, sides))
    whole.add_row(table)
    return whole


def shown(text: str) -> Text:
    """A text to the letter, all but what could take over the terminal."""
    if not text:
        return Text("(empty)", style="dim")
    return Text(harmless(text), overflow="fold")


def legend() -> RenderableType:
    """The keys and what they mean, in as many lines as it takes."""
    parts = (Text.assemble((key, "bold cyan"), f" {meaning}") for key, meaning in LEGEND)
    return Columns(parts, padding=(0, 3))


def help_table() -> RenderableType:
    """The keys, and what comes of them."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for keys, meaning in HELP:
        table.add_row(keys, meaning)
    return Padding(table, (1, 0))
