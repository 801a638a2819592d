"""A server on the loopback that speaks the chat-completions format and can be made to misbehave."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SHOWN = re.compile(r"\[(?:prompt|response A|response B) (\w+)\]\n(.*?)\n\[end \1\]", re.S)

USAGE = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}


@dataclass
class Chat:
    """What the server was asked, and how it behaves.

    Attributes:
        address: to be given as ``base_url``.
        asked: (prompt, response A, response B) of every request.
        headers: of every request.
        bodies: of every request.
        script: how to behave on the next requests, in turn; well when it is empty.
        under_way: requests being worked on, and the most there were at a time.
    """

    address: str = ""
    asked: list[tuple[str, ...]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    script: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    under_way: list[int] = field(default_factory=lambda: [0, 0])

    def answer(self, headers: dict[str, str], body: dict[str, Any]) -> tuple[int, str, str]:
        """Status, content type and text of what comes back."""
        prompt, a, b = (text for _, text in SHOWN.findall(body["messages"][1]["content"]))
        with self.lock:
            self.asked.append((prompt, a, b))
            self.headers.append(headers)
            self.bodies.append(body)
            how = self.script.pop(0) if self.script else "well"
        if how in FAILURES:
            status, code = FAILURES[how]
            said = f"{how} for {headers.get('authorization')}"
            return (
                status,
                "application/json",
                json.dumps({"error": {"message": said, "code": code}}),
            )
        if how == "page":
            return 200, "text/html", "<html>Sign in to the network</html>"
        if how == "broken":
            return 200, "application/json", '{"choices": [{"mess'
        if how == "hang":
            time.sleep(1.0)
        # Whoever says "good" more often is better, wherever it stands.
        text = "One is better.\n" + ("A" if a.count("good") > b.count("good") else "B")
        if how == "nonsense":
            text = "Both are lovely."
        message = {"role": "assistant", "content": None if how == "silence" else text}
        found = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": f"{body['model']}-2026",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            **({} if how == "uncounted" else {"usage": USAGE}),
        }
        return 200, "application/json", json.dumps(found)


FAILURES = {
    "down": (500, None),
    "busy": (429, "rate_limit_exceeded"),
    "spent": (429, "insufficient_quota"),
    "denied": (401, "invalid_api_key"),
    "refused": (400, "unsupported_parameter"),
    "too long": (400, "context_length_exceeded"),
}


@contextmanager
def serving() -> Iterator[Chat]:
    """Serve until the block ends."""
    chat = Chat()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with chat.lock:
                chat.under_way[0] += 1
                chat.under_way[1] = max(chat.under_way)
            named = {name.lower(): value for name, value in self.headers.items()}
            status, kind, text = chat.answer(named, body)
            with chat.lock:
                chat.under_way[0] -= 1
            data = text.encode()
            try:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(data)))
                self.send_header("connection", "close")
                self.end_headers()
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                pass  # whoever asked does not wait any more

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    chat.address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield chat
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
