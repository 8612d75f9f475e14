"""Sockets and HTTP/1.1: read a request, apply faults, send the response."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import traceback
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from tests.support.hub.calls import Call, Handler, Reply, match
from tests.support.hub.faults import Fault
from tests.support.hub.store import BAD_TOKEN, HubError

if TYPE_CHECKING:
    from tests.support.hub.core import Hub

MOST = 1 << 30
REPO_ROUTE = re.compile(r"/api/(models|datasets|spaces)/.+|/.+/resolve/.+")
PATIENCE = 60
WORDS = {
    401: BAD_TOKEN,
    403: "Forbidden",
    404: "Repository not found",
    409: "Conflict",
    412: "A commit has happened since. Please refresh and try again.",
    429: "You have reached the rate limit.",
    500: "Internal Error - We're working hard to fix this as soon as possible!",
}


@dataclass(frozen=True)
class Request:
    """What is kept of a request: never the token, only whether one came. ``status`` 0: cut without an answer."""

    method: str
    path: str
    route: str
    label: str
    status: int
    authorized: bool
    received: int
    sent: int


def refusal(error: HubError, path: str) -> Reply:
    """The answer that says why not."""
    body = json.dumps({"error": error.message, **error.extra}).encode()
    headers = {"Content-Type": "application/json; charset=utf-8", **error.headers}
    headers["X-Error-Message"] = error.message.encode("ascii", "replace").decode().replace("\n", " ")
    if error.code:
        headers["X-Error-Code"] = error.code
    elif error.status == 401 and error.message != BAD_TOKEN and REPO_ROUTE.match(path):
        headers["X-Error-Code"] = "RepoNotFound"  # what the client concludes by itself where the address is https
    return Reply(error.status, body, headers)


def failure(fault: Fault, call: Call, hub: Hub, path: str) -> Reply:
    """The failing answer that a test asked for."""
    status = fault.status or 500
    code = fault.code or ("RepoNotFound" if status == 404 else None)
    error = HubError(status, fault.message or WORDS.get(status, f"status {status}"), code)
    if status == 409 and call.route == "create":
        sent = call.json()
        error.extra["url"] = f"{hub.url}/{sent.get('organization') or 'me'}/{sent.get('name')}"
    if fault.retry_after is not None:
        error.headers["Retry-After"] = str(fault.retry_after)
    return refusal(error, path)


class Listener(ThreadingHTTPServer):
    """One port; remembers its connections and threads so that it can end them."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), Conversation)
        self.hub = hub
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._open: dict[socket.socket, threading.Thread] = {}
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True, name="test-hub")
        self._thread.start()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection."""
        with self._guard:
            self._open[request] = threading.current_thread()
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._guard:
                self._open.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error; anything else is one of this server's."""
        text = traceback.format_exc()
        if not any(name in text for name in ("ConnectionError", "BrokenPipeError", "ConnectionResetError", "Timeout")):
            self.hub.errors.append(text)

    def close(self) -> None:
        """Stop accepting, end the conversations, wait for the threads."""
        self.shutdown()
        self._thread.join(5)
        self.server_close()
        with self._guard:
            running = dict(self._open)
        for connection in running:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in running.values():
            thread.join(5)


class Conversation(BaseHTTPRequestHandler):
    """The requests of one connection, one after the other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = PATIENCE
    server: Listener

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the record is kept by the Hub."""

    def do_GET(self) -> None:
        """Any method."""
        hub = self.server.hub
        self._left = self._announced()
        try:
            call, handler = match(self.command, self.path, self.headers)
        except HubError as error:
            self._finish(Call(self.command, "*", self.headers, body=self._body()), refusal(error, self.path))
            return
        hub.place(call)
        fault = hub.strike(call)
        if fault is not None:
            fault.wait(hub.closing)
            if fault.cut_upload is not None:
                call.body = self._body(fault.cut_upload)
                self._hang_up(call)
                return
        call.body = self._body()
        if fault is not None and call.route == "lfs_put":
            call.body = fault.change(call.body)
        if fault is not None and not fault.after and (fault.drop or fault.status):
            reply = failure(fault, call, hub, self.path)
        else:
            reply = self._work(call, handler)
        if fault is not None and fault.drop:
            self._hang_up(call)
            return
        if fault is not None and fault.status:
            reply = failure(fault, call, hub, self.path)
        elif fault is not None and call.route != "lfs_put":
            reply.body = fault.change(reply.body)
        self._finish(call, reply, fault)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _work(self, call: Call, handler: Handler) -> Reply:
        """What a route answers."""
        hub = self.server.hub
        with hub.lock:
            try:
                call.account = hub.account(self.headers.get("Authorization"))
                return handler(hub, call)
            except HubError as error:
                return refusal(error, self.path)
            except Exception:
                hub.errors.append(traceback.format_exc())
                return refusal(HubError(500, "the test Hub itself failed"), self.path)

    def _announced(self) -> int | None:
        """The length of the body; None where it comes in chunks."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            return None
        return min(int(self.headers.get("Content-Length") or 0), MOST)

    def _body(self, most: int = MOST) -> bytes:
        """The body of the request, or as much of it as is wanted."""
        if self._left is not None:
            return self.rfile.read(min(self._left, most))
        parts: list[bytes] = []
        while sum(map(len, parts)) < most:
            size = int(self.rfile.readline(100).split(b";")[0] or b"0", 16)
            parts.append(self.rfile.read(size))
            self.rfile.readline(100)
            if size == 0:
                break
        return b"".join(parts)[:most]

    def _hang_up(self, call: Call) -> None:
        """End the connection without an answer, so hard that the other side notices."""
        self._record(call, 0, 0)
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _record(self, call: Call, status: int, sent: int) -> None:
        hub, path = self.server.hub, self.path
        for token in hub.secrets():
            path = path.replace(token, "<token>")
        authorized = "Authorization" in self.headers
        hub.record(Request(self.command, path, call.route, call.label, status, authorized, len(call.body), sent))

    def _finish(self, call: Call, reply: Reply, fault: Fault | None = None) -> None:
        """Send an answer, or the first bytes of it. It is on record before the client can know of it."""
        cut = fault.cut_download if fault is not None else None
        body = b"" if self.command == "HEAD" else reply.body if cut is None else reply.body[:cut]
        self._record(call, reply.status, len(body))
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        if cut is not None:
            self.close_connection = True
        self.end_headers()
        stall = fault.stall if fault is not None else None
        if fault is not None and stall is not None:
            self.wfile.write(body[:stall])
            fault.hold(self.server.hub.closing)
        self.wfile.write(body[stall or 0 :])
