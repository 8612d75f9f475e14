"""One POST whose answer is bounded, in bytes and in seconds, whatever the server does."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from functools import cache
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from huggingface_hub.errors import HfHubHTTPError

from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError
from sith_hf.hub import TRANSPORT

R = TypeVar("R")

# The longest answer that is kept has room in it, were every character of it escaped as JSON allows.
MOST_BYTES = 2_000_000


class Damaged(ValueError):
    """An answer of another shape than a chat server's."""


def post(url: str, data: Mapping[str, Any], headers: Mapping[str, str], seconds: float) -> bytes:
    """The body of the answer to a JSON, from a server that is no business of the Hub's: offline mode is none either.

    Args:
        url: http or https.
        data: what to send.
        headers: beside those that every request has; no other token is sent.
        seconds: from the connection to the last byte.

    Raises:
        TimeoutError: the answer was not whole by then.
        Damaged: an answer of more than MOST_BYTES, or in an encoding that was not asked for.
        HfHubHTTPError: a status that is no success; a redirection is none, and is not followed.
        TRANSPORT: no connection, or one that broke off.
        InputError: no URL.
    """
    # A connection of its own: closing it ends the thread that still listens to a server that drips.
    with _library().Client(timeout=seconds, verify=_certificates()) as session:
        return within(seconds, lambda: post_with(session, url, data, headers, seconds))


def post_with(
    session: Any, url: str, data: Mapping[str, Any] | None, headers: Mapping[str, str], seconds: float
) -> bytes:
    """As :func:`post`, with a session of the client's HTTP library, and as good as that looks at the clock:

    between two pieces of the body, and while the server is silent.
    """
    end = time.monotonic() + seconds
    # What is compressed has no bound that could be seen from outside.
    asked = {**headers, "accept-encoding": "identity"}
    sent = {"json": data, "headers": asked, "timeout": seconds, "follow_redirects": False}
    try:
        with session.stream("POST", url, **sent) as response:
            body = bytearray()
            for piece in response.iter_raw():
                body += piece[: MOST_BYTES + 1 - len(body)]
                if len(body) > MOST_BYTES:
                    break
                if time.monotonic() > end:
                    raise TimeoutError
    except _library().TimeoutException as error:
        raise TimeoutError(str(error)) from None
    except _library().InvalidURL as error:
        raise InputError(f"{sanitize(url)}: no URL of a server ({sanitize(str(error))})") from None
    encoded = response.headers.get("content-encoding", "identity").strip().lower() != "identity"
    _refuse(response, b"" if encoded else bytes(body))
    if encoded:
        raise Damaged("an answer in an encoding that was not asked for")
    if len(body) > MOST_BYTES:
        raise Damaged(f"an answer of more than {MOST_BYTES:,} bytes")
    return bytes(body)


def within(seconds: float, work: Callable[[], R]) -> R:
    """What ``work`` returns or raises, or TimeoutError after so many seconds, when nobody waits for it any more."""
    done: SimpleQueue[Callable[[], R]] = SimpleQueue()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # it is raised where the result is waited for
            done.put(_raising(error))
        else:
            done.put(lambda: result)

    Thread(target=run, daemon=True).start()
    try:
        outcome = done.get(timeout=seconds)
    except Empty:
        raise TimeoutError from None
    return outcome()


def _raising(error: BaseException) -> Callable[[], Any]:
    def outcome() -> Any:
        raise error

    return outcome


def _refuse(response: Any, body: bytes) -> None:
    """Raise what the Hub's client raises for a status, which reads the body by itself: from one that was bounded."""
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

    status = response.status_code
    if 200 <= status < 300:
        return
    about_body = ("content-encoding", "content-length", "transfer-encoding")
    headers = [(name, value) for name, value in response.headers.items() if name.lower() not in about_body]
    cut = _library().Response(status, headers=headers, content=body, request=response.request)
    hf_raise_for_status(cut)
    elsewhere = response.headers.get("location", "")
    raise HfHubHTTPError(f"status {status}", response=cut, server_message=f"it points to {elsewhere!r}")


@cache
def _certificates() -> Any:
    # Reading them takes longer than many an answer.
    return _library().create_ssl_context()


@cache
def _library() -> Any:
    """The client's HTTP library, which has changed its name between releases and kept its form."""
    return importlib.import_module(TRANSPORT.__module__.partition(".")[0])
