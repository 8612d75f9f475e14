"""The test Hub as tests use it: its address, tokens, repositories, faults, and the record of every request."""

from __future__ import annotations

import fnmatch
import secrets
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from tests.support.hub import writes as _writes  # noqa: F401 - registers its routes
from tests.support.hub.calls import Call
from tests.support.hub.faults import ROUTES, Fault, Faults
from tests.support.hub.server import Listener, Request
from tests.support.hub.store import BAD_TOKEN, Account, Blob, HubError, Repo, Store


class Hub:
    """A Hub on 127.0.0.1 with users ``me`` (of organization ``team``) and ``other``; a context manager."""

    def __init__(self, lfs_threshold: int = 10 << 20, page_size: int = 1000, cdn: bool = True) -> None:
        self.page_size, self.cdn = page_size, cdn
        self.store = Store(lfs_threshold)
        self.store.add_user("me", ["team"])
        self.store.add_user("other")
        self.token = self.store.token("me")
        self.read_token = self.store.token("me", "read")
        self.useless_token = self.store.token("me", "none")
        self.other_token = self.store.token("other")
        self.wrong_token = "hf_" + secrets.token_hex(17)
        self.uploads: dict[tuple[str, str, str], bytes] = {}
        self.errors: list[str] = []
        self.closing = threading.Event()
        self.lock = threading.RLock()
        self._faults = Faults()
        self._requests: list[Request] = []
        self._tickets: dict[str, tuple[str, str, Any]] = {}
        self._listeners = [Listener(self), Listener(self)]
        self.url, self.storage_url = (listener.url for listener in self._listeners)

    def __enter__(self) -> Hub:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, open every gate, end every thread."""
        self.closing.set()
        for listener in self._listeners:
            listener.close()

    def fail(self, route: str = "*", **how: Any) -> Fault:
        """Misbehave at a route: ``status=``, ``cut_upload=``, ``drop=``, ... see the package's documentation."""
        return self._faults.add(Fault(route, **how))

    def heal(self) -> None:
        """Remove all faults."""
        self._faults.clear()

    def strike(self, call: Call) -> Fault | None:
        """The fault for a call, if any."""
        return self._faults.strike(call.route, call.label)

    def repo(self, repo_id: str, kind: str = "model") -> Repo:
        """A repository, straight from the store; KeyError where there is none."""
        return self.store.repos[kind, repo_id]

    def seed(
        self,
        repo_id: str,
        files: Mapping[str, bytes | str | None],
        kind: str = "model",
        private: bool = False,
        branch: str = "main",
        message: str = "seed",
    ) -> str:
        """Commit files without a client (None deletes), making the repository or branch where missing; its sha."""
        with self.lock:
            repo = self.store.repos.get((kind, repo_id)) or self.store.create(
                kind, repo_id, private, sdk="gradio" if kind == "space" else None
            )
            base = repo.resolve(branch if branch in repo.branches else "main")
            kept = dict(base.files)
            for path, content in files.items():
                data = content.encode() if isinstance(content, str) else content
                if data is None:
                    del kept[path]
                    continue
                kept[path] = Blob(data, self.store.is_lfs(path, len(data), data[:512]))
                if kept[path].lfs:
                    repo.lfs[kept[path].sha256] = data
            return repo.add_commit(branch, base.sha, message, "", repo.namespace, kept).sha

    def record(self, request: Request) -> None:
        """Keep a request, with any token that came in its path blotted out."""
        with self.lock:
            self._requests.append(request)

    @property
    def requests(self) -> list[Request]:
        """The requests so far."""
        with self.lock:
            return list(self._requests)

    def count(self, route: str = "*", method: str = "*", path: str = "*", status: int | None = None) -> int:
        """How many requests took a route; ``path`` is a pattern of repository and file, as for ``fail``."""
        if route != "*" and route not in ROUTES:
            raise ValueError(f"no route {route!r}; there are {', '.join(ROUTES)} and '*'")
        return sum(
            route in ("*", r.route)
            and method in ("*", r.method)
            and fnmatch.fnmatchcase(r.label, path)
            and status in (None, r.status)
            for r in self.requests
        )

    def forget(self) -> None:
        """Empty the record of requests."""
        with self.lock:
            self._requests.clear()

    def secrets(self) -> list[str]:
        """All tokens, for tests that search for leaks."""
        return [*self.store.accounts, self.wrong_token]

    def account(self, authorization: str | None) -> Account | None:
        """Who an Authorization header belongs to; an unknown token is refused everywhere."""
        if authorization is None:
            return None
        scheme, _, token = authorization.partition(" ")
        if scheme != "Bearer" or token not in self.store.accounts:
            raise HubError(401, BAD_TOKEN)
        return self.store.accounts[token]

    def issue(self, ticket: tuple[str, str, Any]) -> str:
        """An address at the storage host that needs no token: what for, the label, the thing itself."""
        name = secrets.token_hex(16)
        self._tickets[name] = ticket
        return name

    def redeem(self, purpose: str, name: str) -> tuple[str, str, Any]:
        """What an address at the storage host stands for."""
        ticket = self._tickets.get(name)
        if ticket is None or ticket[0] != purpose:
            raise HubError(403, "Access Denied")
        return ticket

    def place(self, call: Call) -> None:
        """Give a call to the storage host the label of its file, and a download that only redirects its own route."""
        with self.lock:
            if call.route == "download" and not call.ticket and self.cdn:
                repo = self.store.repos.get((call.kind, call.id))
                sha = repo.branches.get(call.rev) or repo.tags.get(call.rev) or call.rev if repo else ""
                found = repo.commits.get(sha) if repo else None
                if found and call.path in found.files and found.files[call.path].lfs:
                    call.route = "redirect"
            if call.ticket and call.path in self._tickets:
                call.alias = self._tickets[call.path][1]
