"""``modeseek lecture``: the page that moves, in one file; opened, or put on a stick."""

import functools
import http.server
import os
import webbrowser
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Lecture:
    """Build the page on which two objectives move the bins side by side."""

    out: Path = Path("lecture.html")
    """Where it goes; one file, which needs neither a network nor a server."""
    serve: bool = False
    """Open it in a browser, from an address of this machine alone, until Ctrl-C."""
    port: int = 8000
    """Of that address; 0 for any that is free."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise ValueError(f"port is {self.port}; it must be from 0 to 65535.")
        if self.out.is_dir():
            raise ValueError(f"out is {self.out}, a folder; give the name of a file in it.")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and does not talk of it."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def main(arguments: list[str]) -> None:
    """Parse the line and do it."""
    options = tyro.cli(Lecture, args=arguments, prog="modeseek lecture")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from figures.lecture.build import write

    console = Console(highlight=False)
    write(options.out)
    console.print(f"written: {options.out} ({options.out.stat().st_size / 1e3:.0f} kB)")
    if options.serve:
        serve(options.out, options.port, console)


def serve(page: Path, port: int, console: Console) -> None:
    """Hand the page out until somebody interrupts."""
    handler = functools.partial(Quiet, directory=str(page.resolve().parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}/{page.name}"
        console.print(f"{address}  (Ctrl-C ends it)")
        webbrowser.open(address)
        server.serve_forever()
