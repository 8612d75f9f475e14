"""Requests that were understood (Call), answers (Reply), and the table of routes from one to the other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, unquote

from tests.support.hub.store import Account, HubError, Repo

if TYPE_CHECKING:
    from tests.support.hub.core import Hub

VERBS = "revision|tree|refs|commits?|preupload|paths-info|branch|tag|discussions|settings|auth-check|resolve"
API = rf"/api/(?P<kind>model|dataset|space)s/(?P<id>[^/]+(?:/(?!(?:{VERBS})(?:/|$))[^/]+)?)"
REV = r"(?P<rev>refs/(?:pr|convert)/[^/]+|[^/]+)"
PAGE = r"/(?:(?P<kind>dataset|space)s/)?(?P<id>[^/]+(?:/[^/]+)?)"

Headers = Message  # as the standard library reads them, with any spelling of a name


@dataclass
class Call:
    """A request that was understood: which route, which part of which repository, by whom."""

    method: str
    route: str
    headers: Headers
    query: Mapping[str, list[str]] = field(default_factory=dict)
    kind: str = ""
    id: str = ""
    rev: str = ""
    path: str = ""
    account: Account | None = None
    body: bytes = b""
    alias: str = ""
    ticket: bool = False

    @property
    def label(self) -> str:
        """What the ``path`` pattern of a fault is compared with: the repository, and the file if there is one."""
        return self.alias or "/".join(part for part in (self.id, self.path) if part)

    def json(self) -> dict[str, Any]:
        """The body as an object."""
        try:
            loaded = json.loads(self.body or b"{}")
        except ValueError as error:
            raise HubError(400, f"the body is not JSON: {error}") from error
        if not isinstance(loaded, dict):
            raise HubError(400, "the body is not an object")
        return loaded

    def flag(self, name: str) -> bool:
        """A switch in the query."""
        return self.query.get(name, [""])[0].lower() in ("1", "true")


@dataclass
class Reply:
    """An answer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def answer(data: object, status: int = 200, **headers: str) -> Reply:
    """An answer in JSON."""
    extra = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps(data).encode(), {"Content-Type": "application/json; charset=utf-8", **extra})


Handler = Callable[["Hub", Call], Reply]
H = TypeVar("H", bound=Handler)
TABLE: list[tuple[str, re.Pattern[str], str, Handler]] = []


def on(method: str, pattern: str, name: str) -> Callable[[H], H]:
    """Register a route."""

    def register(handler: H) -> H:
        TABLE.append((method, re.compile(pattern), name, handler))
        return handler

    return register


def match(method: str, target: str, headers: Headers) -> tuple[Call, Handler]:
    """The route that a request takes."""
    path, _, query = target.partition("?")
    for verb, pattern, name, handler in TABLE:
        found = pattern.fullmatch(path) if verb == method else None
        if found:
            parts = {key: unquote(value) for key, value in found.groupdict().items() if value}
            fields = parse_qs(query, keep_blank_values=True)
            call = Call(method, name, headers, fields, path=parts.get("path", ""), ticket=path.startswith("/-/"))
            call.kind, call.id, call.rev = parts.get("kind", "model"), parts.get("id", ""), parts.get("rev", "main")
            return call, handler
    raise HubError(404, "Sorry, we can't find the page you are looking for.")


def reader(hub: Hub, call: Call) -> Repo:
    """The repository of a call, if the caller may read it."""
    return hub.store.find(call.kind, call.id, call.account)
