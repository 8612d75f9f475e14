"""A local server with an OpenAI-compatible ``/v1/chat/completions`` that can misbehave."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any


@dataclass(frozen=True)
class Reply:
    """A response to send, or a failure to do so.

    Attributes:
        status: of HTTP.
        body: as it goes over the wire.
        headers: beside those that every response has.
        hang: send nothing until the server is closed.
        drop: close the connection without a response.
        drip: after all of this go on, with a space at a time, until nobody listens or the server is closed; without
            a body already the headers have no end.
        flood: after all of this go on with as much as is taken, until nobody listens or the server is closed.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    drop: bool = False
    drip: bool = False
    flood: bool = False


def said(answer: Any, **more: Any) -> Reply:
    """A valid response whose message has ``answer`` as content."""
    message = {"role": "assistant", "content": answer}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    data = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, **more}
    return Reply(body=json.dumps(data).encode())


@dataclass
class ChatRequests:
    """The requests that a server received.

    Attributes:
        url: for ``base_url``.
        bodies: the JSON of each request, in the order of arrival.
        headers: of each request, names in lower case.
        most: how many were in progress at once, at most.
        more: bytes sent by replies that go on.
        hung_up: set when nobody listens to one of them any more.
    """

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most: int = 0
    more: int = 0
    hung_up: Event = field(default_factory=Event)

    @property
    def prompts(self) -> list[str]:
        """The text of each question."""
        return [body["messages"][0]["content"] for body in self.bodies]


@contextmanager
def chat_server(reply: Callable[[str, int], Reply | str]) -> Iterator[ChatRequests]:
    """Serve on a free port of this machine until the block ends.

    Args:
        reply: from a question and the number of the request, 0 for the first, to what to send; a text is sent as
            :func:`said` does.
    """
    closing, lock = Event(), Lock()
    now = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

        def do_POST(self) -> None:
            nonlocal now
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number, now = len(seen.bodies), now + 1
                seen.most = max(seen.most, now)
                seen.bodies.append(body)
                seen.headers.append({name.lower(): value for name, value in self.headers.items()})
            try:
                answer = reply(body["messages"][0]["content"], number)
            finally:
                with lock:
                    now -= 1
            if self.path != "/v1/chat/completions":
                answer = Reply(404, b"{}")
            self.send(said(answer) if isinstance(answer, str) else answer)

        def send(self, answer: Reply) -> None:
            if answer.hang:
                closing.wait()
            if answer.hang or answer.drop:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in {"content-type": "application/json", **answer.headers}.items():
                self.send_header(name, value)
            endless = answer.drip or answer.flood
            if not endless:
                self.send_header("content-length", str(len(answer.body)))
            if endless and not answer.body:
                self.flush_headers()
                self.wfile.write(b"x-endless: ")
            else:
                self.end_headers()
                self.wfile.write(answer.body)
            if endless:
                self.go_on(b" " if answer.drip else b"4" * 65_536, 0.01 if answer.drip else 0)

        def go_on(self, piece: bytes, pause: float) -> None:
            self.close_connection = True
            try:
                while not closing.wait(pause):
                    self.wfile.write(piece)
                    seen.more += len(piece)
            except OSError:
                seen.hung_up.set()

        def log_message(self, *_: Any) -> None:
            """Log nothing to stderr."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        # Threads that hang end below; none is waited for.
        block_on_close = False

        def handle_error(self, *_: Any) -> None:
            """Ignore clients that hang up, as tests do."""

    server = Server(("127.0.0.1", 0), Handler)
    seen = ChatRequests(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
