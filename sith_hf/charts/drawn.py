"""Sheets drawn with Pillow: paper with the frame of a figure, its fonts, and texts that fit a width."""

from __future__ import annotations

import io
import unicodedata
from bisect import bisect_right
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sith_hf.charts.style import FRAME, PAPER
from sith_hf.core.escaping import sanitize

if TYPE_CHECKING:
    from PIL.Image import Image


def new_sheet(width: int, height: int) -> Image:
    """Return an empty framed sheet, RGB, of so many pixels."""
    from PIL import Image, ImageDraw

    sheet = Image.new("RGB", (width, height), PAPER)
    ImageDraw.Draw(sheet).rectangle((0, 0, width - 1, height - 1), outline=FRAME, width=2)
    return sheet


def sheet_bytes(sheet: Image) -> bytes:
    """Return a sheet as a PNG. With one version of Pillow, equal pixels give equal bytes."""
    file = io.BytesIO()
    # Level 9 takes three times as long for a file that is a twentieth smaller.
    sheet.save(file, "PNG", optimize=False, compress_level=7)
    return file.getvalue()


# A private code point without a letter: fonts draw a box for it, as for every letter that they lack.
_BOX = "\uffff"


def font(size: int, text: str = "") -> Any:
    """Return the font of drawn sheets, of so many pixels.

    Pillow's font has the letters of English. For a text with others (accents, Greek, Cyrillic) the font is that of
    matplotlib, where it is installed.
    """
    ours, wide = _font(size), _wide_font(size)
    return ours if wide is None or not _lacking(ours, text) else wide


def drawable(text: str, instead: str | None = None) -> str:
    """Return a text in letters that :func:`font` has (:func:`sith_hf.core.escaping.sanitize`).

    Args:
        text: any text. If letters are missing, those with accents lose them.
        instead: returned for a text in another script; None for the text with ``?`` in place of unknown letters.
    """
    safe = sanitize(text, 400)
    if not _lacking(font(24, safe), safe):
        return safe
    plain = "".join(c for c in unicodedata.normalize("NFKD", safe) if not unicodedata.combining(c))
    unknown = _lacking(font(24, plain), plain)
    if unknown and instead is not None:
        return instead
    return "".join("?" if letter in unknown else letter for letter in plain)


def fitted(text: str, width: int, size: int) -> str:
    """Return a text on one line in letters that can be drawn, cut where it would be wider than ``width``.

    Args:
        text: any text.
        width: in pixels.
        size: of the font.
    """
    safe = drawable(text)
    letters = font(size, safe)
    if letters.getlength(safe) <= width:
        return safe
    kept = bisect_right(range(len(safe)), width, key=lambda n: letters.getlength(f"{safe[: n + 1]}…"))
    return f"{safe[:kept]}…"


@lru_cache(maxsize=16)
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


@lru_cache(maxsize=16)
def _wide_font(size: int) -> Any:
    """Return DejaVu Sans of matplotlib, which is not imported; None without it."""
    from PIL import ImageFont

    found = find_spec("matplotlib")
    path = None if found is None or found.origin is None else Path(found.origin).parent / "mpl-data/fonts/ttf"
    file = None if path is None else path / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), size) if file is not None and file.is_file() else None


def _lacking(letters: Any, text: str) -> set[str]:
    """Return the characters of a text that a font draws as a box, or in the wrong order."""
    box = bytes(letters.getmask(_BOX))
    # Pillow alone draws scripts from right to left in reverse.
    backwards = {letter for letter in text if unicodedata.bidirectional(letter) in ("R", "AL")}
    return backwards | {c for c in set(text) if not c.isspace() and bytes(letters.getmask(c)) == box}
