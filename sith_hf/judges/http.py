"""One POST whose answer is bounded in bytes and in seconds, whatever the server does."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping
from typing import Any

from sith_hf.hub import TRANSPORT

# The library that huggingface_hub uses: httpx in some releases, httpx2 in others, with the same interface.
httpx: Any = importlib.import_module(TRANSPORT.__module__.partition(".")[0])

# Room for the longest answer that is kept, with every character of it escaped as JSON allows.
MAX_BYTES = 2_000_000


class DamagedAnswer(ValueError):
    """An answer of another shape than a chat server's."""


class RefusedRequest(Exception):
    """An answer with a status that is no success.

    Attributes:
        status: of HTTP; a redirection is not followed.
        headers: of the answer.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers = status, headers
        said = f"points to {headers['location']}" if "location" in headers else body.decode("utf-8", "replace").strip()
        super().__init__(f"status {status}" + (f" ({said})" if said else ""))


async def post(client: Any, url: str, data: Mapping[str, Any], headers: Mapping[str, str], seconds: float) -> bytes:
    """Send JSON and return the body of the answer.

    Args:
        client: an ``httpx.AsyncClient``.
        url: http or https.
        data: what to send.
        headers: added to those of the client.
        seconds: the limit from the connection to the last byte.

    Raises:
        TimeoutError: the answer was not complete in time.
        DamagedAnswer: the answer has more than MAX_BYTES bytes, or is encoded although no encoding was accepted.
        RefusedRequest: the status is no success.
        TRANSPORT: there is no connection, or it broke.
    """
    # The size of a compressed body cannot be bounded from outside.
    options = {"headers": {**headers, "accept-encoding": "identity"}, "timeout": None, "follow_redirects": False}
    body = bytearray()
    async with asyncio.timeout(seconds), client.stream("POST", url, json=data, **options) as response:
        async for piece in response.aiter_raw():
            body += piece[: MAX_BYTES + 1 - len(body)]
            if len(body) > MAX_BYTES:
                break
    encoded = response.headers.get("content-encoding", "identity").strip().lower() != "identity"
    if not 200 <= response.status_code < 300:
        raise RefusedRequest(response.status_code, response.headers, b"" if encoded else bytes(body))
    if encoded:
        raise DamagedAnswer("the answer has an encoding that was not accepted")
    if len(body) > MAX_BYTES:
        raise DamagedAnswer(f"the answer has more than {MAX_BYTES:,} bytes")
    return bytes(body)
