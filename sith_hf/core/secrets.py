"""Find tokens in text and in bytes, so that none is published, logged or shown."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Mapping
from itertools import chain
from urllib.parse import quote

JUDGE_TOKEN = "SITH_HF_JUDGE_TOKEN"
# The environment variables whose values are secret: tokens of the Hub, and the token of a judge's server.
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", JUDGE_TOKEN)

_STARTS = ("hf_", "api_org_")
# A token of the Hub in text; the group is its start.
HUB_TOKEN = re.compile(rf"(?<![A-Za-z0-9_])({'|'.join(_STARTS)})[A-Za-z0-9]{{16,}}")
# The same in bytes. Zeros between the letters are those of UTF-16 and UTF-32. At a random byte, a token begins with a
# probability of 2**-24 * (62/256)**16 * 193/256 = 6e-18: once in 1e8 checkpoints of 1.7 GB.
_TOKENS = tuple(
    re.compile(b"".join(re.escape(byte.encode()) + rb"\0{0,3}" for byte in start) + rb"(?:[A-Za-z0-9]\0{0,3}){16,}")
    for start in _STARTS
)
_WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
# Shorter values, such as the "EMPTY" of a server without tokens, are words that occur anywhere.
_SHORTEST = 8
_PIECE = 2**22


def known_tokens(token: str | None = None) -> dict[str, str]:
    """Return the tokens in use by name: ``token``, those of the environment, and that of ``hf auth login``."""
    found = {name: os.environ.get(name, "") for name in TOKEN_VARIABLES}
    found |= {"the token in use": token or "", "the token of `hf auth login`": _stored_token() or ""}
    return {name: value.strip() for name, value in found.items() if value.strip()}


def find_token(pieces: Iterable[bytes], known: Mapping[str, str]) -> str | None:
    """Return in words which token some bytes contain, without showing it; None if they contain none.

    Args:
        pieces: the bytes in order, in pieces of any size.
        known: name to value of tokens that are found in every form: plain, UTF-16, UTF-32 and base64.
    """
    forms = {form: name for name, value in known.items() if len(value) >= _SHORTEST for form in _forms(value)}
    overlap = max(512, *(2 * len(form) for form in forms), 0)
    before = b""
    for piece in chain.from_iterable(_split(piece) for piece in pieces):
        window = before + piece
        for form, name in forms.items():
            if form in window:
                return f"the value of {name}" if name in TOKEN_VARIABLES else name
        # A match at the very start was seen in the last window, with the byte before it.
        matches = (match for pattern in _TOKENS for match in pattern.finditer(window))
        if any(_bounded(window, m, first=4 if before else 0) and not _is_example(m.group()) for m in matches):
            return "a token of the Hub"
        before = window[-overlap:]
    return None


def mask(text: str, *tokens: str | None) -> str:
    """Return ``text`` without the given tokens and those in use, however a server escapes them."""
    values = {value.strip() for value in (*tokens, *known_tokens().values()) if value}
    for token in sorted((value for value in values if len(value) >= _SHORTEST), key=len, reverse=True):
        escaped = json.dumps(token)[1:-1]
        for form in dict.fromkeys((token, escaped, escaped.replace("/", "\\/"), quote(token, safe=""), quote(token))):
            text = text.replace(form, "<token>")
    return text


def _split(piece: bytes) -> Iterable[bytes]:
    return (piece[start : start + _PIECE] for start in range(0, len(piece), _PIECE))


def _bounded(window: bytes, match: re.Match[bytes], first: int) -> bool:
    """Return whether a match is not the end of a longer word, such as ``my_hf_``."""
    start, found = match.start(), match.group()
    width = 1 + next(i for i, byte in enumerate(found[1:]) if byte)  # bytes of a letter
    return start >= first and (start < width or window[start - width] not in _WORD)


def _is_example(found: bytes) -> bool:
    """Return whether a match stands for a token in a documentation: ``hf_xxxxxxxxxxxxxxxxxxxx``, ``hf_YourTokenHere``.

    Nothing else is let pass: one token that is published is worse than many files that must be changed.
    """
    letters = found.replace(b"\0", b"").lower().rpartition(b"_")[2]
    return set(letters) == set(b"x") or letters.startswith(b"your")


def _forms(value: str) -> set[bytes]:
    """Return the encodings of a token; base64 for each of the three places where it may begin in a longer text."""
    plain = value.encode()
    # The first and the last characters of base64 depend on the bytes around the token.
    padded = [bytes(start) + plain for start in range(3)]
    coded = [base64.b64encode(text)[(start * 8 + 5) // 6 : len(text) * 8 // 6] for start, text in enumerate(padded)]
    return {plain, value.encode("utf-16-le"), value.encode("utf-32-le"), *coded}


def _stored_token() -> str | None:
    from huggingface_hub import get_token

    try:
        return get_token()
    except (OSError, ValueError):
        return None
