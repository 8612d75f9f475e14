"""Read the body of a chat server's response: its answer, or what it says about an error."""

from __future__ import annotations

import json
from typing import Any

from sith_hf.judges.answers import Answer

_UNREADABLE = "the answer does not have the form of a chat server's"
# Reasons to stop, by name, why an answer may hold no score.
_STOPS = {
    "length": "cut off at the limit of tokens (max_tokens)",
    "max_tokens": "cut off at the limit of tokens (max_tokens)",
    "content_filter": "held back by the server's filter",
}


class DamagedAnswer(ValueError):
    """An answer that does not have the form of a chat server's."""


class WebPage(DamagedAnswer):
    """A web page in place of an answer."""


def read_answer(body: bytes) -> Answer:
    """Return the answer in a body.

    The content may be a text, a list of parts of which those of type ``text`` count, or null, such as for a model that
    used all of its tokens to think; ``reasoning_content`` is never an answer. Of an answer that was cut off, the last
    word is left out, because it may be incomplete.

    Raises:
        DamagedAnswer: the body is not a chat server's.
    """
    if is_page(body):
        raise WebPage("a web page, not the answer of a chat server")
    try:
        data = json.loads(body)
        if isinstance(data, dict) and data.get("error") and not data.get("choices"):
            raise DamagedAnswer(f"the answer is an error: {error_text(body)}")
        choice = data["choices"][0]
        message = choice["message"]
        text, refusal = _text(message.get("content")), message.get("refusal")
        stop = choice.get("finish_reason")
    except DamagedAnswer:
        raise
    # A server may send JSON of any form, or none.
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise DamagedAnswer(_UNREADABLE) from None
    if isinstance(refusal, str) and refusal.strip() and not text.strip():
        return Answer("", f"refused by the model: {refusal}")
    fault = _STOPS.get(stop) if isinstance(stop, str) else None
    if fault is not None:
        return Answer(text[: max(map(text.rstrip().rfind, " \n\t")) + 1], fault)
    if not text.strip():
        thought = any(message.get(key) for key in ("reasoning_content", "reasoning"))
        return Answer("", "only reasoning, no answer" if thought else "empty")
    return Answer(text)


def error_text(body: bytes) -> str:
    """Return what the body of an error says, in one line if it is JSON of a known form."""
    if is_page(body):
        return "a web page"
    text = body.decode("utf-8", "replace").strip()
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for _ in range(2):
        for key in ("error", "message", "detail"):
            if isinstance(data, dict) and data.get(key):
                data = data[key]
                break
    return data if isinstance(data, str) else text


def is_page(body: bytes) -> bool:
    """Return whether a body is HTML."""
    return body[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml"))


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise TypeError
    return "".join(part["text"] for part in content if part["type"] in ("text", "output_text"))
