"""Text from outside is hostile until it is escaped: for a terminal, or as JSON inside another text."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence

# Control, format (bidirectional overrides among them), surrogate and private-use characters never reach a terminal.
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def sanitize(text: str, limit: int = 120) -> str:
    """``text`` on one line, with characters that a terminal would obey shown as ``\\xNN``, cut at ``limit``."""
    safe = "".join(
        character.encode("unicode_escape").decode("ascii") if unicodedata.category(character) in _HIDDEN else character
        for character in text[: limit + 1]
    )
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"


def escape_texts(texts: Sequence[str], marks: str = "") -> str:
    """``texts`` as a JSON list on one line; :func:`json.loads` gives back the very same texts.

    Letters of every script stay as they are, so that people and language models can read them. Characters that
    are hidden, and those of ``marks``, are written as ``\\uXXXX``.

    Args:
        texts: any texts.
        marks: what has a meaning where the list will stand, such as ``"<>"``. None of JSON's own marks.
    """
    text = json.dumps(list(texts), ensure_ascii=False)
    return "".join(_escaped(c) if c in marks or unicodedata.category(c) in _HIDDEN else c for c in text)


def _escaped(character: str) -> str:
    # json writes what lies beyond the first 65536 characters as a pair.
    escaped = json.dumps(character, ensure_ascii=True)[1:-1]
    return escaped if escaped != character else f"\\u{ord(character):04x}"
