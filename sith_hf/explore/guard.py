"""Keep pages of other sites out of an explorer that only this machine may use.

A browser lets every page send requests to 127.0.0.1. Two checks refuse them: the name in ``Host`` must be one of this
machine (a page whose name suddenly points to 127.0.0.1 has another), and ``Origin``, which browsers send with every
request that changes something, must be the explorer's own page.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from sith_hf.explore.address import is_loopback

_NAMES = ["127.0.0.1", "localhost", "[::1]", "::1"]


class SameOrigin:
    """Refuse requests that pages of other sites send."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        origin = headers.get("origin")
        if origin is None or urlsplit(origin).netloc == headers.get("host"):
            await self.app(scope, receive, send)
        else:
            refusal = PlainTextResponse("A page of another site sent this request.", status_code=403)
            await refusal(scope, receive, send)


def guards(host: str) -> list[Middleware]:
    """Return the checks for an explorer that is bound to ``host``; none if other machines may reach it."""
    if not is_loopback(host):
        return []
    return [Middleware(TrustedHostMiddleware, allowed_hosts=[*_NAMES, host]), Middleware(SameOrigin)]
