"""The faults that a test can put into the test Hub."""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

ROUTES = (
    "whoami",
    "create",
    "delete_repo",
    "settings",
    "validate_yaml",
    "preupload",
    "lfs_batch",
    "lfs_put",
    "lfs_verify",
    "commit",
    "info",
    "tree",
    "paths_info",
    "refs",
    "commits",
    "branch",
    "tag",
    "discussions",
    "head",
    "redirect",
    "download",
)
LONGEST_WAIT = 60.0


@dataclass
class Fault:
    """One misbehaviour: where, at which calls, and what happens. Made by ``Hub.fail``; ``struck`` counts its hits."""

    route: str
    status: int | None = None
    message: str | None = None
    code: str | None = None
    retry_after: int | None = None
    cut_upload: int | None = None
    cut_download: int | None = None
    drop: bool = False
    corrupt: int | None = None
    edit: Callable[[bytes], bytes] | None = None
    gate: threading.Event | None = None
    stall: int | None = None
    meanwhile: Callable[[], object] | None = None
    after: bool = False
    nth: int = 1
    times: int | None = 1
    path: str = "*"
    calls: int = 0
    struck: int = 0
    arrived: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        if self.route != "*" and self.route not in ROUTES:
            raise ValueError(f"no route {self.route!r}; there are {', '.join(ROUTES)} and '*'")
        given = (self.status, self.cut_upload, self.cut_download, self.corrupt, self.edit, self.gate)
        if all(x is None for x in (*given, self.meanwhile)) and not self.drop:
            raise ValueError("a fault must do something: status, cut_upload, cut_download, drop, corrupt, edit, ...")
        if self.stall is not None and self.gate is None:
            raise ValueError("stall needs a gate")
        if self.status is not None and not 400 <= self.status <= 599:
            raise ValueError(f"{self.status} is not a failure")
        if self.nth < 1 or (self.times is not None and self.times < 1):
            raise ValueError("nth and times count from 1")

    def due(self, route: str, path: str) -> bool:
        """Count a call and say whether it is one that goes wrong."""
        if self.route not in ("*", route) or not fnmatch.fnmatchcase(path, self.path):
            return False
        self.calls += 1
        return self.calls >= self.nth and (self.times is None or self.calls < self.nth + self.times)

    def change(self, body: bytes) -> bytes:
        """The body of an answer (or of an upload), changed as this fault demands."""
        if self.edit is not None:
            body = self.edit(body)
        if self.corrupt is not None and body:
            spoiled = bytearray(body)
            spoiled[self.corrupt % len(body)] ^= 1
            body = bytes(spoiled)
        return body

    def wait(self, closing: threading.Event) -> None:
        """Hold the call at the gate if it is not to stall later, and let the test do something meanwhile."""
        if self.stall is None:
            self.hold(closing)
        if self.meanwhile is not None:
            self.meanwhile()

    def hold(self, closing: threading.Event) -> None:
        """Wait until the test opens the gate, or the Hub closes."""
        self.arrived.set()
        if self.gate is not None:
            for _ in range(int(LONGEST_WAIT / 0.05)):
                if closing.is_set() or self.gate.wait(0.05):
                    break


class Faults:
    """The faults in force, asked in the order in which they were made; the first that is due strikes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Add a fault."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._faults.clear()

    def strike(self, route: str, path: str) -> Fault | None:
        """The fault for this call, if any."""
        with self._lock:
            due = [fault for fault in self._faults if fault.due(route, path)]
            if not due:
                return None
            due[0].struck += 1
            return due[0]
