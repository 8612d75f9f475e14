"""Sheets drawn with Pillow: paper with the frame of a figure, its font, and texts that fit a width."""

from __future__ import annotations

import io
from bisect import bisect_right
from functools import lru_cache
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


@lru_cache(maxsize=16)
def font(size: int) -> Any:
    """Return the font of drawn sheets, of so many pixels."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def fitted(text: str, width: int, size: int) -> str:
    """Return a text on one line (:func:`sith_hf.core.escaping.sanitize`), cut where it would be wider than ``width``.

    Args:
        text: any text.
        width: in pixels.
        size: of the font.
    """
    safe = sanitize(text, 400)
    if font(size).getlength(safe) <= width:
        return safe
    kept = bisect_right(range(len(safe)), width, key=lambda n: font(size).getlength(f"{safe[: n + 1]}…"))
    return f"{safe[:kept]}…"
