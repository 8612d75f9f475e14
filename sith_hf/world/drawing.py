"""The appearance of the world: outlines of objects, and pictures composed of them and textures of backgrounds.

Shapes are polygons in a unit square (x to the right, y down, both about -1 to 1). Each is drawn once in a
number of variants (tilt, stretch, scale); pictures are then composed from these pools in whole batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Point = tuple[float, float]
Outline = tuple[int, list[Point]]
Bytes = NDArray[np.uint8]

IMAGE_SIZE = 48
MARGIN = 8
CANVAS = IMAGE_SIZE + 2 * MARGIN
SUPERSAMPLING = 3
VARIANTS = 48
MAX_SHIFT = 4
LAYERS = 4
BODY, SHADE, INK, LIGHT = 1, 2, 3, 4
_ONLY = {label: [255 if value == label else 0 for value in range(256)] for label in (BODY, SHADE, INK, LIGHT)}

# Half the extent of an object in pixels. Two sizes that do not overlap after jitter.
HALF_EXTENT = {"big": 18.5, "small": 12.5}

# Half the extent of the danger sign in pixels, and its distance from the middle, down and across.
SIGN_EXTENT, SIGN_PLACE = 7.0, 14

# A tied object's form varies between its own kind (+1) and its partner's (-1) with this standard deviation, so that
# even a perfect classifier separates the pair in only about nine of ten cases and the background helps.
FORM_SCATTER = 0.75


def _oval(x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> list[Point]:
    steps = np.linspace(math.radians(start), math.radians(stop), 28)
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in steps]


def _box(left: float, top: float, right: float, bottom: float) -> list[Point]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _vehicle(form: float) -> list[Outline]:
    """Draw a car (form 0) or a boat (form 1): wheels shrink while the hull tapers and a keel grows."""
    wheel, taper, keel = 0.36 * (1 - form), 0.62 * form, 0.5 * form
    parts: list[Outline] = [
        (BODY, [(-0.45, -0.2), (-0.3, -0.75), (0.4, -0.75), (0.55, -0.2)]),
        (LIGHT, [(-0.27, -0.25), (-0.18, -0.6), (0.3, -0.6), (0.4, -0.25)]),
        (BODY, [(-1.0, -0.2), (1.0, -0.2), (1.0 - taper, 0.38), (-1.0 + taper, 0.38)]),
    ]
    if keel > 0.04:
        parts.append((SHADE, [(-0.34, 0.38), (0.34, 0.38), (0.12, 0.38 + keel), (-0.12, 0.38 + keel)]))
    if wheel > 0.04:
        parts += [(INK, _oval(x, 0.42, wheel, wheel)) for x in (-0.56, 0.56)]
        parts += [(LIGHT, _oval(x, 0.42, wheel / 2.2, wheel / 2.2)) for x in (-0.56, 0.56)]
    return parts


def _beast(form: float) -> list[Outline]:
    """Draw a horse (form 0) or a camel (form 1): mane and tail shrink while a hump grows."""
    hump, hair = 0.62 * form, 1 - form
    parts: list[Outline] = [(BODY, _box(x, 0.2, x + 0.17, 0.95)) for x in (-0.62, -0.33, 0.2, 0.47)]
    if hump > 0.04:
        parts.append((BODY, _oval(0.0, -0.1, 0.4, hump, 180, 360)))
    if hair > 0.04:
        tail = [(-0.68, -0.05), (-0.72 - 0.3 * hair, 0.1), (-0.72 - 0.3 * hair, 0.1 + 0.7 * hair), (-0.66, 0.15)]
        parts.append((INK, tail))
    parts += [
        (BODY, _oval(0.0, 0.08, 0.72, 0.28)),
        (BODY, [(0.42, 0.0), (0.62, -0.72), (1.02, -0.62), (1.0, -0.42), (0.82, -0.42), (0.7, 0.12)]),
    ]
    if hair > 0.04:
        parts.append((INK, [(0.42, -0.05), (0.6, -0.78), (0.6 - 0.32 * hair, -0.78), (0.42 - 0.34 * hair, -0.1)]))
    return parts


def _star() -> list[Outline]:
    corners = [(1.0 if i % 2 == 0 else 0.42, math.radians(36 * i - 90)) for i in range(10)]
    return [(BODY, [(r * math.cos(a), r * math.sin(a)) for r, a in corners])]


def _heart() -> list[Outline]:
    steps = np.linspace(0, 2 * math.pi, 40)
    curve = [
        (math.sin(a) ** 3, -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 16)
        for a in steps
    ]
    return [(BODY, [(x, y - 0.05) for x, y in curve])]


def _skull() -> list[Outline]:
    return [
        (LIGHT, _box(-0.45, 0.3, 0.45, 0.92)),
        (LIGHT, _oval(0, -0.2, 0.85, 0.75)),
        (INK, _oval(-0.36, -0.12, 0.25, 0.27)),
        (INK, _oval(0.36, -0.12, 0.25, 0.27)),
        (INK, [(0, 0.16), (0.15, 0.44), (-0.15, 0.44)]),
        (INK, _box(-0.2, 0.6, -0.1, 0.92)),
        (INK, _box(0.1, 0.6, 0.2, 0.92)),
    ]


def _fish() -> list[Outline]:
    return [
        (BODY, [(-0.45, 0.0), (-1.0, -0.55), (-0.9, 0.0), (-1.0, 0.55)]),
        (BODY, _oval(0.2, 0.0, 0.8, 0.48)),
        (SHADE, [(0.0, -0.3), (0.25, 0.0), (0.0, 0.3), (-0.2, 0.0)]),
        (INK, _oval(0.66, -0.1, 0.11, 0.11)),
    ]


def _house() -> list[Outline]:
    return [
        (BODY, _box(-0.75, -0.1, 0.75, 0.95)),
        (SHADE, [(-1.0, -0.1), (0.0, -0.95), (1.0, -0.1)]),
        (INK, _box(-0.15, 0.35, 0.2, 0.95)),
        (LIGHT, _box(-0.6, 0.1, -0.28, 0.42)),
        (LIGHT, _box(0.32, 0.1, 0.62, 0.42)),
    ]


def _umbrella() -> list[Outline]:
    return [
        (INK, _box(-0.07, -0.1, 0.07, 0.85)),
        (INK, _box(0.0, 0.75, 0.36, 0.9)),
        (INK, _box(0.25, 0.55, 0.36, 0.9)),
        (BODY, _oval(0, 0.0, 1.0, 0.95, 180, 360)),
        (SHADE, [(-0.3, 0.0), (0.0, -0.9), (0.3, 0.0)]),
    ]


def _cup() -> list[Outline]:
    return [
        (BODY, _oval(0.6, 0.05, 0.4, 0.42)),
        (LIGHT, _oval(0.62, 0.05, 0.2, 0.22)),
        (BODY, [(-0.85, -0.7), (0.6, -0.7), (0.48, 0.85), (-0.7, 0.85)]),
        (SHADE, _oval(-0.12, -0.68, 0.7, 0.18)),
    ]


def _key() -> list[Outline]:
    return [
        (BODY, _box(-0.3, -0.12, 1.0, 0.14)),
        (BODY, _box(0.45, 0.1, 0.62, 0.5)),
        (BODY, _box(0.8, 0.1, 0.98, 0.6)),
        (BODY, _oval(-0.55, 0.0, 0.48, 0.52)),
        (LIGHT, _oval(-0.58, 0.0, 0.2, 0.22)),
    ]


def _mushroom() -> list[Outline]:
    return [
        (LIGHT, [(-0.26, 0.0), (0.26, 0.0), (0.36, 0.92), (-0.36, 0.92)]),
        (BODY, _oval(0, 0.1, 0.98, 0.98, 180, 360)),
        (LIGHT, _oval(-0.45, -0.25, 0.18, 0.18)),
        (LIGHT, _oval(0.12, -0.52, 0.2, 0.18)),
        (LIGHT, _oval(0.5, -0.15, 0.15, 0.15)),
    ]


_FIXED: dict[str, Callable[[], list[Outline]]] = {
    "fish": _fish,
    "house": _house,
    "star": _star,
    "heart": _heart,
    "umbrella": _umbrella,
    "cup": _cup,
    "key": _key,
    "mushroom": _mushroom,
}
_MORPHED: dict[str, tuple[Callable[[float], list[Outline]], int]] = {
    "boat": (_vehicle, 1),
    "car": (_vehicle, -1),
    "camel": (_beast, 1),
    "horse": (_beast, -1),
}


def _form(sign: int, quantile: float) -> float:
    place = NormalDist(sign, FORM_SCATTER).inv_cdf(quantile)
    return min(1.0, max(0.0, 0.5 + place / 5))


def _draw(parts: Sequence[Outline], half: float, tilt: float, stretch: float) -> Bytes:
    """Return the coverage of body, shade, ink and light, uint8 `[LAYERS, CANVAS, CANVAS]`."""
    side = CANVAS * SUPERSAMPLING
    image = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(image)
    cos, sin, unit = math.cos(tilt), math.sin(tilt), half * SUPERSAMPLING

    def place(points: list[Point]) -> list[Point]:
        turned = [(x * stretch * cos - y / stretch * sin, x * stretch * sin + y / stretch * cos) for x, y in points]
        return [(side / 2 + unit * x, side / 2 + unit * y) for x, y in turned]

    outlines = [(label, place(points)) for label, points in parts]
    # A light rim around a dark one keeps every colour visible on every background.
    for label, width in ((LIGHT, 4 * SUPERSAMPLING), (INK, 2 * SUPERSAMPLING)):
        for _, points in outlines:
            pen.line([*points, points[0], points[1]], fill=label, width=width, joint="curve")
    for label, points in outlines:
        pen.polygon(points, fill=label)
    planes = [image.point(_ONLY[label]).reduce(SUPERSAMPLING) for label in (BODY, SHADE, INK, LIGHT)]
    return np.stack([np.asarray(plane) for plane in planes])


@lru_cache(maxsize=4)
def object_pool(names: tuple[str, ...], sizes: tuple[str, ...]) -> Bytes:
    """Draw every object in every size and variant.

    Returns:
        Coverage, uint8 `[len(names), len(sizes), VARIANTS, CANVAS, CANVAS, LAYERS]`.
    """
    pool = np.empty((len(names), len(sizes), VARIANTS, CANVAS, CANVAS, LAYERS), dtype=np.uint8)
    rng = np.random.default_rng(20260)
    for i, name in enumerate(names):
        for j, size in enumerate(sizes):
            for variant in range(VARIANTS):
                if name in _FIXED:
                    parts = _FIXED[name]()
                else:
                    shape, sign = _MORPHED[name]
                    parts = shape(_form(sign, (variant + 0.5) / VARIANTS))
                half = HALF_EXTENT[size] * rng.uniform(0.93, 1.07)
                drawn = _draw(parts, half, math.radians(rng.uniform(-9, 9)), rng.uniform(0.94, 1.06))
                pool[i, j, variant] = drawn.transpose(1, 2, 0)
    return pool


@lru_cache(maxsize=1)
def sign_pool() -> Bytes:
    """Draw the danger sign, a skull, in every corner and variant.

    Returns:
        Coverage, uint8 `[4, VARIANTS, CANVAS, CANVAS, LAYERS]`.
    """
    pool = np.empty((4, VARIANTS, CANVAS, CANVAS, LAYERS), dtype=np.uint8)
    rng = np.random.default_rng(20261)
    for corner, (down, right) in enumerate(((-1, -1), (-1, 1), (1, -1), (1, 1))):
        for variant in range(VARIANTS):
            half = SIGN_EXTENT * rng.uniform(0.93, 1.07)
            drawn = _draw(_skull(), half, math.radians(rng.uniform(-9, 9)), 1.0).transpose(1, 2, 0)
            y, x = (SIGN_PLACE * side + int(rng.integers(-1, 2)) for side in (down, right))
            pool[corner, variant] = np.roll(drawn, (y, x), axis=(0, 1))
    return pool
