"""From what a dataset holds for a picture to an RGB picture, or to the reason why there is none."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow warns above this number of pixels; a file of some kilobytes can claim far more than memory holds.
MAX_PIXELS = 89_478_485
# Scaled to a short edge of 224 pixels, a strip of this proportion still takes 15 MB.
MAX_RATIO = 100


class BrokenPicture(Exception):
    """No picture can be made of this. The message is the reason, in few words that are the same for like cases."""


def to_picture(value: Any) -> Image.Image:
    """An RGB picture, turned upright.

    Args:
        value: what ``datasets`` gives undecoded (a mapping of ``bytes`` and ``path``), bytes, an array uint8
            ``[H, W]`` or ``[H, W, 3]``, or a picture of Pillow.

    Raises:
        BrokenPicture: none there, not a picture, truncated, or of a size that no picture has.
    """
    if isinstance(value, str):
        # Any text of a foreign dataset could name a place to read from.
        raise BrokenPicture("a text where an image should be (cast the column to datasets.Image)")
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if value is None:
        raise BrokenPicture("no image")
    try:
        with warnings.catch_warnings():
            # The size is checked below, and palettes with transparent colours become RGB like all others.
            warnings.simplefilter("ignore")
            return _decoded(value)
    except BrokenPicture:
        raise
    except UnidentifiedImageError:
        raise BrokenPicture("not an image, or of an unknown format") from None
    except Image.DecompressionBombError:
        raise BrokenPicture("too many pixels") from None
    # Pillow's decoders raise whatever a damaged file leads them to.
    except (OSError, ValueError, SyntaxError, TypeError, EOFError, IndexError, KeyError, ArithmeticError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise BrokenPicture("file not found" if missing else "damaged or truncated image") from None


def _decoded(value: Any) -> Image.Image:
    if isinstance(value, Image.Image):
        return _upright(value)
    if isinstance(value, np.ndarray | list):
        return _upright(Image.fromarray(np.asarray(value, dtype=np.uint8)))
    if isinstance(value, str):
        import fsspec  # type: ignore[import-untyped]

        with fsspec.open(value, "rb") as file:
            value = file.read()
    if not isinstance(value, bytes | bytearray | memoryview):
        raise BrokenPicture(f"a {type(value).__name__} where an image should be")
    with Image.open(io.BytesIO(bytes(value))) as opened:
        return _upright(opened)


def _upright(image: Image.Image) -> Image.Image:
    width, height = image.size
    if not width or not height:
        raise BrokenPicture("an image without pixels")
    if width * height > MAX_PIXELS:
        raise BrokenPicture("too many pixels")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise BrokenPicture("a strip more than 100 times as long as wide")
    image.load()
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I;16"):
        # Pillow's own conversion would make everything above 255 white.
        turned = Image.fromarray((np.asarray(turned) >> 8).astype(np.uint8))
    return turned.convert("RGB")
