"""One question to a chat server: the call, what may be tried again, and what no error message may hold."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from sith_hf.core.escaping import sanitize
from sith_hf.core.validation import finite_number
from sith_hf.errors import HubError, InputError
from sith_hf.hub import CLIENT, OFFLINE, TRANSPORT, hide
from sith_hf.judges.answers import MAX_CHARACTERS
from sith_hf.judges.http import Damaged, post, post_with, within

TOKEN_VARIABLE = "SITH_HF_JUDGE_TOKEN"

# Seconds before the second, third, ... attempt; a server that names its own time is waited for at most the last.
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
LONGEST_PAUSE = 60.0
# A server that was silent for so long is not waited for as often as one that says that it is busy.
MOST_TIMEOUTS = 2
LONGEST_TIMEOUT = 86_400.0

_AGAIN = (408, 409, 425, 429)
# With these no other question will fare better.
_FINAL = (401, 402, 403, 404, 405)


class Unanswered(HubError):
    """A question that got no usable answer, after every attempt; another question may."""


@dataclass(frozen=True)
class ChatServer:
    """A language model: of the Hub's providers (``huggingface_hub.InferenceClient``), or on a server by its URL.

    Of an answer no more than 2 MB are read. Offline mode holds for the Hub's providers alone: what ``base_url`` names
    is asked by itself.

    Tokens: a provider of the Hub gets the Hub's token from the usual places (``hf auth login``, ``HF_TOKEN``). A
    server named by ``base_url`` never gets that one, which is no business of other people's servers; it gets
    ``token``, or what the environment has as ``SITH_HF_JUDGE_TOKEN``, or none.

    Attributes:
        model: the name of the model; with ``base_url``, None leaves it to the server.
        provider: of the Hub's inference providers; the user's own order when None.
        base_url: an OpenAI-compatible server, such as ``http://localhost:8000/v1``.
        parameters: further arguments of ``chat_completion``, such as ``temperature``.
        timeout: seconds for one attempt, from the connection to the last byte; above 0, at most a day.
        token: see above; shown nowhere.

    Raises:
        InputError: no model and no server, both a provider and a server, a server that is no plain http(s) URL, or a
            timeout out of range.
    """

    model: str | None = None
    provider: str | None = None
    base_url: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 60.0
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not 0 < finite_number(self.timeout, "timeout, in seconds,") <= LONGEST_TIMEOUT:
            raise InputError(f"timeout is above 0 and at most {LONGEST_TIMEOUT:,.0f} seconds; got {self.timeout}")
        if self.base_url is None:
            if not self.model or self.model.startswith(("http://", "https://")):
                raise InputError("name the language model by its Hub id, or a server with base_url (--base-url)")
            return
        if self.provider is not None:
            raise InputError("name a provider of the Hub or a server with base_url, not both")
        try:
            parts = urlsplit(self.base_url)
            fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            fits = False
        if not fits:
            raise InputError(f"base_url is a URL such as http://localhost:8000/v1; got {sanitize(self.base_url)!r}")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise InputError(
                "base_url holds no password, query or fragment, because records name it; "
                f"a token goes into {TOKEN_VARIABLE}"
            )

    @property
    def name(self) -> str:
        """Model and server in words, without any secret."""
        if self.base_url is not None:
            return f"{self.model or 'the model'} at {self.base_url}"
        return f"{self.model} of {self.provider}" if self.provider else str(self.model)

    def ask(
        self, prompt: str, wait: Callable[[float], object], report: Callable[[str], object] = lambda _: None
    ) -> str:
        """The answer to a question, after as many attempts as it takes: at most six, and two that are too late.

        Args:
            prompt: the question.
            wait: is called with the seconds to wait before another attempt.
            report: is told before each wait, in words, what went wrong.

        Raises:
            Unanswered: this question got no usable answer.
            HubError: no question will.
        """
        fault, late = "", 0
        for pause in (*PAUSES, None):
            try:
                return self._once(prompt)
            except OfflineModeIsEnabled:
                raise HubError(f"asking {sanitize(self.name)} failed: {OFFLINE}") from None
            except CLIENT as error:
                fault = self._fault(error)
                status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
                if status is not None and (status in _FINAL or status < 400):
                    raise HubError(f"asking {sanitize(self.name)} failed: {fault}; {_advice(status)}") from None
                late += isinstance(error, TimeoutError)
                if pause is None or late >= MOST_TIMEOUTS or not self._passes(error, status):
                    break
                pause = _named_pause(error) or pause
                report(f"{sanitize(self.name)}: {fault}; asking again in {pause:g} s")
                wait(pause)
        raise Unanswered(f"{sanitize(self.name)} did not answer: {fault}")

    def _once(self, prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        output = self._from_hub(messages) if self.base_url is None else self._from_server(messages)
        # Whatever the server sends is in there, in whatever shape.
        choices = output["choices"]
        if not isinstance(choices, list) or not choices:
            raise Damaged("an answer without choices")
        content = choices[0]["message"].get("content")
        if content is not None and not isinstance(content, str):
            raise Damaged("an answer that is no text")
        # A model that spent all of its tokens on thinking says nothing at all.
        return (content or "")[: MAX_CHARACTERS + 1]

    def _from_server(self, messages: list[dict[str, str]]) -> Any:
        assert self.base_url is not None
        token = self._token()
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        # A server with one model takes any name, but many refuse a question without one.
        data = {"model": self.model or "dummy", "messages": messages, **self.parameters}
        given = {name: value for name, value in data.items() if value is not None}
        return json.loads(post(_chat_url(self.base_url), given, headers, self.timeout))

    def _from_hub(self, messages: list[dict[str, str]]) -> Any:
        from huggingface_hub import InferenceClient, get_session

        client: Any = InferenceClient(provider=self.provider, token=self.token, timeout=self.timeout)  # type: ignore[arg-type]
        # The client has no public way to bound what it reads; in a release without this method only time is bounded.
        client._inner_post = lambda request, **_: post_with(
            get_session(), request.url, request.json, request.headers, self.timeout
        )
        arguments = {"model": self.model, **self.parameters}
        return within(self.timeout, lambda: client.chat_completion(messages, **arguments))

    def _passes(self, error: BaseException, status: int | None) -> bool:
        """Whether the same question may be answered a little later."""
        if status is not None:
            return status in _AGAIN or status >= 500
        # What the client finds wrong with a provider of the Hub, before it asks it, is a plain ValueError.
        if self.base_url is None and type(error) is ValueError:
            return False
        # Beside the connection: a body that is no JSON, or JSON of another shape, as a proxy sends it.
        return isinstance(error, (TRANSPORT, OSError, ValueError, KeyError, TypeError, IndexError, AttributeError))

    def _token(self) -> str | None:
        return self.token or os.environ.get(TOKEN_VARIABLE, "").strip() or None

    def _fault(self, error: BaseException) -> str:
        if isinstance(error, HfHubHTTPError):
            said = sanitize(" ".join((error.server_message or "").split()), 160)
            text = f"status {error.response.status_code}" + (f" ({said})" if said else "")
        elif isinstance(error, TimeoutError):
            text = f"no answer within {self.timeout:g} seconds"
        else:
            text = f"{type(error).__name__}: {sanitize(' '.join(str(error).split()), 160)}"
        return hide(text, self._token())


def _chat_url(base_url: str) -> str:
    """The address of the chat: servers are named with it, up to ``/v1``, or by the host alone."""
    base = base_url.rstrip("/")
    if base.endswith("/chat/completions"):
        return base
    return f"{base}/chat/completions" if base.endswith("/v1") else f"{base}/v1/chat/completions"


def _named_pause(error: BaseException) -> float | None:
    """The seconds that the server asks to wait, where it says so."""
    if not isinstance(error, HfHubHTTPError):
        return None
    text = error.response.headers.get("retry-after", "").strip()
    # Else it is a date, or nothing of sense.
    return min(float(text), LONGEST_PAUSE) if text.isascii() and text.isdigit() and len(text) < 8 else None


def _advice(status: int | None) -> str:
    if status in (401, 403):
        return f"check the token: `hf auth login` for the Hub, {TOKEN_VARIABLE} for another server"
    if status == 402:
        return "the account has no credits left for it"
    return "check the model, the provider and the URL"
