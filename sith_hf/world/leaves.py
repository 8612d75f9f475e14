"""Drawn noise of shapes, "dead leaves": pictures of nothing, for questions that need images and no data."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw

SIDE = 224

# The largest radius is half a picture; below the smallest, a small input size shows nothing.
RADII = (8.0, 112.0)
SHAPES = 60
CELLS = (2, 17)


def leaves(seed: int, pictures: int) -> dict[str, Any]:
    """Draw pictures of overlapping discs and boxes on blocky noise; picture n depends on ``seed`` and n alone.

    Radii have the density r^-3 of dead leaves (Lee, Mumford and Huang, 2001), so the pictures have the statistics of
    no special scale.

    Returns:
        a column ``image``, uint8 ``[pictures, SIDE, SIDE, 3]``.
    """
    drawn = np.stack([_picture(np.random.default_rng([seed, number])) for number in range(pictures)])
    return {"image": drawn}


def _picture(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    cells = rng.integers(0, 256, size=(rng.integers(*CELLS), rng.integers(*CELLS), 3), dtype=np.uint8)
    picture = PIL.Image.fromarray(cells).resize((SIDE, SIDE), PIL.Image.Resampling.NEAREST)
    draw = PIL.ImageDraw.Draw(picture)
    least, most = RADII
    for _ in range(rng.integers(0, SHAPES)):
        # The inverse of the distribution function of the density r^-3 on the interval.
        radius = (least**-2 - rng.random() * (least**-2 - most**-2)) ** -0.5
        x, y = rng.uniform(0, SIDE, 2)
        colour = tuple(rng.integers(0, 256, 3).tolist())
        if rng.random() < 0.5:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        else:
            wide = radius * rng.uniform(0.5, 1.5)
            draw.rectangle((x - wide, y - radius, x + wide, y + radius), fill=colour)
    return np.asarray(picture)
