"""Make an image from an array of pixels, or give the reason why its numbers have no one meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# The limit of Pillow's warning. A file of a few kilobytes can claim more pixels than fit into memory.
MAX_PIXELS = 89_478_485
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


class BrokenImage(Exception):
    """An image cannot be decoded. The message is a short reason without details, so that reasons can be counted."""


def image_of(value: Any) -> Image.Image:
    """Return the image of an array, or of lists of numbers.

    Shapes are ``[H, W]``, ``[H, W, C]`` or ``[C, H, W]`` with C = 1 (grey), 3 or 4 (colours, with alpha), ``[H, W, 2]``
    (grey with alpha), and the same within axes of length 1. What may be ``[H, W, 3]`` is; between other readings of one
    shape nothing decides. Numbers are taken for what they are:

    ==================  =======================  ===============================
    dtype               range                    meaning
    ==================  =======================  ===============================
    bool                                         black and white
    uint8                                        bytes
    uint16                                       16 bits, 65535 is white
    other integers      0 to 255                 bytes
    other integers      0 to 65535               16 bits, 65535 is white
    floating point      0 to 1                   fractions, 1 is white
    floating point      0 to 255, some above 1   bytes, rounded
    ==================  =======================  ===============================

    The range is that of the whole array. Arrays of bytes are often stored as wider integers, and a float picture of
    bytes with none above 1 would be black, so that these readings are the likely ones.

    Raises:
        BrokenImage: other shapes, negative numbers (a picture that was already normalised), numbers beyond the range,
            NaN or infinity, or too many pixels.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        raise BrokenImage("lists of different lengths where an image should be") from None
    if array.dtype == object or array.dtype.kind not in "buif":
        raise BrokenImage("lists with other values than numbers where an image should be")
    array = _channels_last(array)
    if array.size > 4 * MAX_PIXELS:
        raise BrokenImage("too many pixels")
    return Image.fromarray(np.ascontiguousarray(_as_bytes(array)))


def sixteen_bits(image: Image.Image) -> Image.Image:
    """Return an image of 16 bits as one of 8 bits; Pillow's conversion would clip everything above 255 to white."""
    return Image.fromarray(_scaled(np.asarray(image).astype(np.uint16)))


def _channels_last(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array as ``[H, W]``, ``[H, W, 2]``, ``[H, W, 3]`` or ``[H, W, 4]``."""
    if not array.size:
        raise BrokenImage("an image without pixels")
    while array.ndim > 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim < 2:
        raise BrokenImage("a flat list of numbers without height and width where an image should be")
    if array.ndim > 3:
        raise BrokenImage("a list of images where one image should be")
    if array.ndim == 2:
        return array
    first, last = array.shape[0] in (1, 3, 4), array.shape[-1] in _MODES
    if first and last and array.shape[0] > 1 and array.shape[-1] != 3:
        raise BrokenImage("an array whose channels may be the first or the last axis")
    if not (first or last):
        raise BrokenImage("an array without an axis of 1, 3 or 4 channels")
    array = array if last else np.moveaxis(array, 0, -1)
    return array[..., 0] if array.shape[-1] == 1 else array


def _as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return np.where(array, np.uint8(255), np.uint8(0))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BrokenImage("pixels that are NaN or infinite")
    low, high = array.min(), array.max()
    if low < 0:
        raise BrokenImage("negative pixels: a picture that was normalised, not the picture itself")
    if array.dtype.kind == "f":
        if high > 255:
            raise BrokenImage("floating-point pixels above 255")
        return np.rint(array.astype(np.float64) * (255 if high <= 1 else 1)).astype(np.uint8)
    if high <= 255 and array.dtype != np.uint16:
        return array.astype(np.uint8)
    if high > 65_535:
        raise BrokenImage("pixels above 65535, the largest of 16 bits")
    return _scaled(array)


def _scaled(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return integers of 16 bits as the nearest of 8 bits: 65535 is 255."""
    return np.rint(array / 257).astype(np.uint8)
