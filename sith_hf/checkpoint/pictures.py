"""Find the pictures that cards name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from urllib.parse import unquote

from sith_hf.core.reading import read_start

_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg")
# The part of a card that is read: a card of many megabytes is no text.
_LONGEST = 2**20


def named_pictures(cards: Iterable[Path], names: Collection[str]) -> set[str]:
    """Return the pictures among ``names``, paths below the folder, to which any of the cards refers."""
    pictures, found = {name for name in names if name.lower().endswith(_SUFFIXES)}, set()
    for card in cards if pictures else ():
        text = read_start(card, _LONGEST).decode("utf-8", "replace")
        words = re.split(r"[\s\"'()<>\[\]=|`]+", text)
        found |= {unquote(word).removeprefix("./") for word in words if word.lower().endswith(_SUFFIXES)}
    return pictures & found
