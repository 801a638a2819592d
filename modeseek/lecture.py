"""``modeseek lecture``: the page that moves, in one file; opened, or put on a stick."""

import http.server
import os
import webbrowser
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Lecture:
    """Build the page on which two objectives move the bins side by side."""

    out: Path = Path("reproduced/lecture.html")
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


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every request with the page, and does not talk of it."""

    def __init__(self, page: bytes, *given: Any) -> None:
        self.page = page  # before the parent's, which answers at once
        super().__init__(*given)

    def do_GET(self) -> None:
        """The page."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(self.page)))
        self.end_headers()
        self.wfile.write(self.page)

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
        serve(options.out.read_bytes(), options.port, console)


def serve(page: bytes, port: int, console: Console) -> None:
    """Hand the page out until somebody interrupts.

    Raises:
        OSError: if something else has the port.
    """
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, page))
    except OSError as error:
        raise OSError(
            f"--port {port} cannot be had ({error.strerror}): give another, or 0 for any that is "
            "free. The page also opens from its file."
        ) from None
    with server:
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        console.print(f"{address}  (Ctrl-C ends it)")
        webbrowser.open(address)
        server.serve_forever()
