"""What an open page asks the server every few seconds: whether it is there, and what happened to its folder."""

from __future__ import annotations

from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sith_hf.explore.explorer import Explorer

# ``static/pulse.js`` asks for it.
PATH = "/sith/pulse"


def pulse(explorer: Explorer) -> Route:
    """Return the route that answers with the number of this run of the server, and a notice or null."""
    run = uuid4().hex

    async def answer(request: Request) -> JSONResponse:
        return JSONResponse({"run": run, "notice": explorer.notice()}, headers={"Cache-Control": "no-store"})

    return Route(PATH, answer)
