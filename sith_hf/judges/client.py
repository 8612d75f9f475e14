"""``ChatServer``: one question to a language model, with repeated attempts and without secrets in messages."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import get_async_session, get_token
from huggingface_hub.errors import OfflineModeIsEnabled

from sith_hf.core.escaping import sanitize
from sith_hf.core.secrets import JUDGE_TOKEN, mask
from sith_hf.core.validation import finite_number
from sith_hf.errors import HubError, InputError
from sith_hf.hub import OFFLINE, TRANSPORT
from sith_hf.judges.answers import Answer
from sith_hf.judges.grammar import MAX_CHARACTERS
from sith_hf.judges.response import DamagedAnswer, WebPage, error_text, read_answer
from sith_hf.judges.secrets import chat_url, check_encrypted, environment_token, masked_logs

# The library of huggingface_hub: httpx in some releases, httpx2 in others, with the same interface.
httpx: Any = importlib.import_module(TRANSPORT.__module__.partition(".")[0])

# The most bytes of an answer: enough for MAX_CHARACTERS, with every character escaped as JSON allows.
MAX_BYTES = 2_000_000

# The Hub's inference providers: https://huggingface.co/docs/inference-providers
ROUTER = "https://router.huggingface.co/v1"

# Seconds before the second, third, ... attempt. A server may ask for another pause, up to LONGEST_PAUSE.
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
LONGEST_PAUSE = 60.0
# Attempts at a server that does not answer in time: fewer than at a busy one.
MAX_TIMEOUTS = 2
# Seconds for a connection. A server that needs minutes for an answer still accepts connections at once.
CONNECT = 2.5
# Seconds for an answer, from the connection to the last byte: enough for a model that thinks on a slow machine.
TIMEOUT = 600.0
LONGEST_TIMEOUT = 86_400.0

# Statuses after which the same question is asked again, and statuses that every question would get.
_AGAIN = (408, 409, 425, 429)
_FINAL = (401, 402, 403, 404, 405)

# Errors before a server has accepted a connection.
UNREACHABLE = (httpx.ConnectError, httpx.ConnectTimeout)

_TOKEN_ADVICE = f"check the token: `hf auth login` for the Hub, {JUDGE_TOKEN} for another server"
_ADVICE = {401: _TOKEN_ADVICE, 402: "the account has no credits left", 403: _TOKEN_ADVICE}


class Unanswered(HubError):
    """A question without a usable answer after every attempt. Other questions may get one."""


class RefusedRequest(Exception):
    """An answer with an error status or a redirection, which is not followed.

    Attributes:
        status: the HTTP status.
        headers: the headers of the answer.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers = status, headers
        there = headers.get("location")
        text = f"redirects to {there}" if there is not None else error_text(body)
        super().__init__(f"status {status} ({text})" if text else f"status {status}")


@dataclass(frozen=True)
class ChatServer:
    """A language model of the Hub's inference providers, or on an OpenAI-compatible server.

    At most 2 MB of an answer are read. Offline mode applies to the Hub's providers only, not to ``base_url``.

    Tokens: the Hub's providers get ``token`` or the Hub's token from the usual places (``hf auth login``,
    ``HF_TOKEN``). A server given by ``base_url`` never gets the Hub's token: it gets ``token``, or the environment
    variable ``SITH_HF_JUDGE_TOKEN``, or none; beyond the local network only over https. Redirections are not followed.

    Attributes:
        model: the name of the model. With ``base_url``, None leaves the choice to the server.
        provider: one of the Hub's inference providers; the order of the user's Hub settings when None.
        base_url: an OpenAI-compatible server, such as ``http://localhost:8000/v1``.
        parameters: more keys of the request, such as ``temperature``.
        timeout: seconds for one attempt, from the connection to the last byte; above 0, at most a day.
        token: see above; never shown.

    Raises:
        InputError: neither a model nor a server, both a provider and a server, a ``base_url`` that is not a plain
            http(s) URL, or a timeout out of range.
    """

    model: str | None = None
    provider: str | None = None
    base_url: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = TIMEOUT
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not 0 < finite_number(self.timeout, "timeout, in seconds,") <= LONGEST_TIMEOUT:
            raise InputError(f"timeout must be above 0 and at most {LONGEST_TIMEOUT:,.0f} seconds; got {self.timeout}")
        if self.base_url is None:
            if not self.model or self.model.startswith(("http://", "https://")):
                raise InputError("name the language model by its Hub id, or a server with base_url (--base-url)")
            return
        if self.provider is not None:
            raise InputError("name a provider of the Hub or a server with base_url, not both")
        try:
            parts = urlsplit(self.base_url)
            fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            httpx.URL(self.base_url)
            str(parts.hostname).encode("idna")
        except (ValueError, httpx.InvalidURL):
            fits = False
        if not fits:
            raise InputError(
                f"base_url must be a URL such as http://localhost:8000/v1; got {sanitize(self.base_url)!r}"
            )
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise InputError(
                "base_url must not have a password, query or fragment, because records contain it; "
                f"put a token into the environment variable {JUDGE_TOKEN}"
            )

    @property
    def name(self) -> str:
        """The model and server in words, without secrets."""
        if self.base_url is not None:
            return f"{self.model or 'the model'} at {self.base_url}"
        return f"{self.model} of {self.provider}" if self.provider else str(self.model)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Any]:
        """Give the ``httpx.AsyncClient`` for questions; its logs have no token."""
        client = httpx.AsyncClient() if self.base_url is not None else get_async_session()
        if self.base_url is None:
            # These hooks read the body before its size is known.
            client.event_hooks = {**client.event_hooks, "response": []}
        with masked_logs(self.token):
            async with client:
                yield client

    async def ask(
        self,
        prompt: str,
        session: Any,
        wait: Callable[[float], Awaitable[object]] = asyncio.sleep,
        report: Callable[[str], object] = lambda _: None,
        *,
        connected: bool = False,
    ) -> Answer:
        """Return the answer to a question, after at most six attempts, of which two may time out.

        Args:
            prompt: the question.
            session: from :meth:`session`.
            wait: waits for some seconds before another attempt.
            report: called with the fault before each wait.
            connected: whether the server has accepted a connection in this run. If not, a failed connection is final:
                a server that is down says so within seconds.

        Raises:
            Unanswered: this question got no usable answer.
            HubError: no question would get one.
        """
        fault, late = "", 0
        for pause in (*PAUSES, None):
            try:
                return await self._once(prompt, session)
            except OfflineModeIsEnabled:
                raise HubError(f"asking {sanitize(self.name)} failed: {OFFLINE}") from None
            except (RefusedRequest, DamagedAnswer, TRANSPORT, OSError) as error:
                fault = self._fault(error)
                if isinstance(error, UNREACHABLE) and not connected:
                    raise HubError(
                        f"asking {sanitize(self.name)} failed: {fault}; check that the server runs, and its URL"
                    ) from None
                if isinstance(error, WebPage):
                    raise HubError(f"asking {sanitize(self.name)} failed: {fault}; check the URL") from None
                connected = connected or isinstance(error, (RefusedRequest, DamagedAnswer))
                status = error.status if isinstance(error, RefusedRequest) else None
                if status is not None and (status in _FINAL or status < 400):
                    advice = _ADVICE.get(status, "check the model, the provider and the URL")
                    raise HubError(f"asking {sanitize(self.name)} failed: {fault}; {advice}") from None
                late += isinstance(error, TimeoutError)
                temporary = status is None or status in _AGAIN or status >= 500
                if pause is None or late >= MAX_TIMEOUTS or not temporary:
                    break
                pause = _requested_pause(error) or pause
                report(f"{sanitize(self.name)}: {fault}; asking again in {pause:g} s")
                await wait(pause)
        raise Unanswered(f"{sanitize(self.name)} did not answer: {fault}")

    async def _once(self, prompt: str, session: Any) -> Answer:
        token = self._token()
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        # A server with one model accepts any name, but many refuse a question without one.
        model = f"{self.model}:{self.provider}" if self.provider else self.model or "dummy"
        data = {"model": model, "messages": [{"role": "user", "content": prompt}], **self.parameters}
        given = {name: value for name, value in data.items() if value is not None}
        body = await post(session, chat_url(self.base_url or ROUTER), given, headers, self.timeout)
        answer = read_answer(body)
        fault = None if answer.fault is None else sanitize(mask(answer.fault, token), 160)
        return Answer(mask(answer.text, token)[: MAX_CHARACTERS + 1], fault)

    def _token(self) -> str | None:
        if self.base_url is not None:
            token = self.token or environment_token()
            if token is not None:
                check_encrypted(self.base_url)
        elif not (token := self.token or get_token()):
            raise HubError(f"asking {sanitize(self.name)} failed: no token for the Hub was found; run `hf auth login`")
        if token is not None and not (token.isascii() and token.isprintable()):
            raise InputError("the token has characters that an HTTP header cannot hold")
        return token

    def _fault(self, error: BaseException) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self.timeout:g} seconds"
        if isinstance(error, httpx.ConnectTimeout):
            return f"no connection within {CONNECT:g} seconds"
        known = isinstance(error, (RefusedRequest, DamagedAnswer))
        name = "no connection" if isinstance(error, UNREACHABLE) else type(error).__name__
        text = str(error) if known else f"{name}: {error}"
        return sanitize(" ".join(mask(text, self._token()).split()), 160)


def _requested_pause(error: BaseException) -> float | None:
    """Return the seconds that the server asks to wait, if any."""
    if not isinstance(error, RefusedRequest):
        return None
    text = error.headers.get("retry-after", "").strip()
    # The header may also be a date or invalid.
    return min(float(text), LONGEST_PAUSE) if text.isascii() and text.isdigit() and len(text) < 8 else None


async def post(client: Any, url: str, data: Mapping[str, Any], headers: Mapping[str, str], seconds: float) -> bytes:
    """Send JSON and return the body of the answer.

    Args:
        client: an ``httpx.AsyncClient``.
        url, data, headers: the request; headers are added to those of the client.
        seconds: the limit from the connection to the last byte.

    Raises:
        TimeoutError: the answer was not complete in time.
        DamagedAnswer: the answer has more than MAX_BYTES bytes, or is compressed although it must not be.
        RefusedRequest: an error status or a redirection.
        TRANSPORT: no connection, or a broken one.
    """
    # The size of a compressed body is not known before it is decompressed.
    options = {
        "headers": {**headers, "accept-encoding": "identity"},
        "timeout": httpx.Timeout(None, connect=CONNECT),
        "follow_redirects": False,
    }
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
