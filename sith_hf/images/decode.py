"""Decode an image of a dataset to RGB, or give the reason why it cannot be decoded."""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sith_hf.core.reading import read_bytes
from sith_hf.images.pixels import MAX_PIXELS, BrokenImage, image_of, sixteen_bits

# An uncompressed image of MAX_PIXELS with 32 bits a channel has 1 GB.
MAX_BYTES = 2**30
# Scaled to a short edge of 224 pixels, an image of this aspect ratio takes 15 MB.
MAX_RATIO = 100

# The brands of files of HEIF, as phones write them.
_HEIF = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis"}


def decode_image(value: Any) -> Image.Image:
    """Decode an image to RGB, rotated upright; the first frame of several.

    Args:
        value: an undecoded image of ``datasets`` (a mapping with ``bytes`` and ``path``), bytes, an array or lists of
            pixels (see :func:`sith_hf.images.pixels.image_of`), a Pillow image, or a list of one of these. Files of 16
            and 32 bits a pixel are read as such arrays are.

    Raises:
        BrokenImage: missing, not an image, truncated, too large, several images, or pixels of an unclear scale.
    """
    try:
        value = raw_image(value)
        with warnings.catch_warnings():
            # The size is checked below; palettes with transparency are converted like all others.
            warnings.simplefilter("ignore")
            return _decoded(value)
    except BrokenImage:
        raise
    except UnidentifiedImageError:
        if isinstance(value, bytes) and value[4:8] == b"ftyp" and value[8:12] in _HEIF:
            raise BrokenImage("HEIC or AVIF, which this Pillow does not read (convert it to JPEG or PNG)") from None
        raise BrokenImage("not an image, or of an unknown format") from None
    except Image.DecompressionBombError:
        raise BrokenImage("too many pixels") from None
    # Pillow's decoders raise many kinds of errors for damaged files.
    except (OSError, ValueError, SyntaxError, TypeError, EOFError, IndexError, KeyError, ArithmeticError, struct.error):
        raise BrokenImage("damaged or truncated image") from None


def raw_image(value: Any) -> Any:
    """Return the bytes of an undecoded image of ``datasets``, read from its file if need be; other values unchanged.

    A list of one image is that image.

    Raises:
        BrokenImage: no image, several images, a text, or a file that cannot be read.
    """
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        # A text in an untrusted dataset could name any file or URL.
        raise BrokenImage("a text where an image should be (cast the column to datasets.Image)")
    if isinstance(value, list) and value and isinstance(value[0], Mapping | str | bytes | Image.Image | None):
        raise BrokenImage("a list of images where one image should be")
    if isinstance(value, Mapping):
        if not {"bytes", "path"} & set(value):
            raise BrokenImage("a mapping without bytes or path where an image should be")
        data, path = value.get("bytes"), value.get("path")
        value = _file_bytes(path) if not data and isinstance(path, str) and path else data
    if value is None or (isinstance(value, bytes | list) and not value):
        raise BrokenImage("no image")
    return value


def _file_bytes(path: str) -> bytes:
    """Read a file named by a dataset, also inside an archive or on a server; at most ``MAX_BYTES``."""
    local = re.sub("^(file|local)://", "", path)
    try:
        if "://" not in local and "::" not in local:
            return read_bytes(local, MAX_BYTES)
        import fsspec  # type: ignore[import-untyped]

        with fsspec.open(path, "rb") as file:
            data = bytes(file.read(MAX_BYTES + 1))
    except FileNotFoundError:
        raise BrokenImage("file not found") from None
    except ImportError as error:
        raise BrokenImage(f"a file that needs the package {error.name or 'of its server'}") from None
    except (OSError, ValueError, RuntimeError) as error:
        known = getattr(error, "strerror", None) if "://" not in local else None
        raise BrokenImage(f"a file that cannot be read ({known or type(error).__name__})") from None
    if len(data) > MAX_BYTES:
        raise BrokenImage(f"a file that cannot be read (more than {MAX_BYTES:,} bytes)")
    return data


def _decoded(value: Any) -> Image.Image:
    if isinstance(value, Image.Image):
        return _upright(value)
    if isinstance(value, np.ndarray | list):
        return _upright(image_of(value))
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
    # Pillow before 11 opens a PNG of 16 bits in a mode of 32 bits.
    if turned.mode.startswith("I;16") or (turned.mode == "I" and image.format == "PNG"):
        turned = sixteen_bits(turned)
    elif turned.mode in ("I", "F"):
        turned = image_of(np.asarray(turned))
    try:
        return turned.convert("RGB")
    except ValueError:
        raise BrokenImage(f"colours that Pillow does not convert ({turned.mode})") from None
