"""Decode an image of a dataset to RGB, or give the reason why it cannot be decoded."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# The limit of Pillow's warning. A file of a few kilobytes can claim more pixels than fit into memory.
MAX_PIXELS = 89_478_485
# Scaled to a short edge of 224 pixels, an image of this aspect ratio takes 15 MB.
MAX_RATIO = 100


class BrokenImage(Exception):
    """An image cannot be decoded. The message is a short reason without details, so that reasons can be counted."""


def decode_image(value: Any) -> Image.Image:
    """Decode an image to RGB, rotated upright.

    Args:
        value: an undecoded image of ``datasets`` (a mapping with ``bytes`` and ``path``), bytes, an array uint8
            ``[H, W]`` or ``[H, W, 3]``, or a Pillow image.

    Raises:
        BrokenImage: missing, not an image, truncated, or too large.
    """
    if isinstance(value, str):
        # A text in an untrusted dataset could name any file or URL.
        raise BrokenImage("a text where an image should be (cast the column to datasets.Image)")
    value = bytes_or_path(value)
    if value is None:
        raise BrokenImage("no image")
    try:
        with warnings.catch_warnings():
            # The size is checked below; palettes with transparency are converted like all others.
            warnings.simplefilter("ignore")
            return _decoded(value)
    except BrokenImage:
        raise
    except UnidentifiedImageError:
        raise BrokenImage("not an image, or of an unknown format") from None
    except Image.DecompressionBombError:
        raise BrokenImage("too many pixels") from None
    # Pillow's decoders raise many kinds of errors for damaged files.
    except (OSError, ValueError, SyntaxError, TypeError, EOFError, IndexError, KeyError, ArithmeticError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise BrokenImage("file not found" if missing else "damaged or truncated image") from None


def bytes_or_path(value: Any) -> Any:
    """Return the bytes or the path of an undecoded image; other values unchanged."""
    return (value.get("bytes") or value.get("path")) if isinstance(value, Mapping) else value


def read_bytes(path: str) -> bytes:
    """Read a file named by a dataset, also inside an archive or on a server."""
    import fsspec  # type: ignore[import-untyped]

    with fsspec.open(path, "rb") as file:
        return bytes(file.read())


def _decoded(value: Any) -> Image.Image:
    if isinstance(value, Image.Image):
        return _upright(value)
    if isinstance(value, np.ndarray | list):
        return _upright(Image.fromarray(np.asarray(value, dtype=np.uint8)))
    if isinstance(value, str):
        value = read_bytes(value)
    if not isinstance(value, bytes | bytearray | memoryview):
        raise BrokenImage(f"a {type(value).__name__} where an image should be")
    with Image.open(io.BytesIO(bytes(value))) as opened:
        return _upright(opened)


def _upright(image: Image.Image) -> Image.Image:
    width, height = image.size
    if not width or not height:
        raise BrokenImage("an image without pixels")
    if width * height > MAX_PIXELS:
        raise BrokenImage("too many pixels")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise BrokenImage("a strip more than 100 times as long as wide")
    image.load()
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I;16"):
        # Pillow's conversion clips everything above 255 to white.
        turned = Image.fromarray((np.asarray(turned) >> 8).astype(np.uint8))
    return turned.convert("RGB")
