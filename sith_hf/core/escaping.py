"""Escaping of untrusted text, for a terminal and as JSON inside another text; texts without tokens and local paths."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence

from sith_hf.core.secrets import HUB_TOKEN

# Control, format (bidirectional overrides among them), surrogate and private-use characters never reach a terminal.
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_PATH = re.compile(
    r"(?:(?<=^)|(?<=[\s\"'(=,:;\[]))(?:file://)?(?:/|~/|[A-Za-z]:[\\/])(?:[^\s/\\\"'<>|]+[\\/])+(?=[^\s/\\]|$)"
)


def sanitize(text: str, limit: int = 120) -> str:
    """Return ``text`` on one line, cut at ``limit``, with control characters shown as ``\\xNN``."""
    safe = "".join(
        character.encode("unicode_escape").decode("ascii") if unicodedata.category(character) in _HIDDEN else character
        for character in text[: limit + 1]
    )
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return the text of an error of a library on one line (:func:`sanitize`); the name of its class if it has none."""
    return sanitize(" ".join(str(error).split()), limit) or type(error).__name__


def escape_texts(texts: Sequence[str], marks: str = "") -> str:
    """Return ``texts`` as a JSON list on one line; :func:`json.loads` restores them exactly.

    Letters of every script stay readable. Hidden characters and those of ``marks`` are written as ``\\uXXXX``.

    Args:
        texts: any texts.
        marks: characters with a meaning in the surrounding text, such as ``"<>"``; none of JSON's own syntax.
    """
    text = json.dumps(list(texts), ensure_ascii=False)

    def escaped(character: str) -> str:
        # json escapes everything but ASCII, and writes characters above U+FFFF as a surrogate pair.
        return f"\\u{ord(character):04x}" if character.isascii() else json.dumps(character)[1:-1]

    return "".join(escaped(c) if c in marks or unicodedata.category(c) in _HIDDEN else c for c in text)


def impersonal(text: str) -> str:
    """Remove tokens of the Hub from ``text``, and shorten absolute local paths to their last part."""
    return _PATH.sub("…/", HUB_TOKEN.sub(r"\1…", text))


def shown_name(name: str) -> str:
    """Return the last part of a local path, so that a card reveals no folders."""
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    if last in (".", ".."):
        return "a local checkpoint"
    return "a model in memory" if last in ("", "in memory") else last
