"""Texts from outside as a JSON list that the text around it cannot mistake for a part of itself."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence

# Characters that a reader does not see, or that turn the direction of what it reads.
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def quoted(texts: Sequence[str], marks: str = "") -> str:
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
