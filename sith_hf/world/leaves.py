"""Drawn noise of shapes, "dead leaves": pictures of nothing, for questions that need images and no data."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw

SIDE = 224

# A ground of blocks, whose colours differ by at most this part of the whole range from one colour of the picture.
CELLS, CONTRAST = (2, 17), 0.6
# Shapes on it, their radii, and how far their centres scatter around the middle.
SHAPES, RADII, SCATTER = (1, 12), (10.0, 80.0), SIDE / 6


def leaves(seed: int, pictures: int) -> dict[str, Any]:
    """Draw pictures of overlapping discs and boxes on blocky noise; picture n depends on ``seed`` and n alone.

    Dead leaves (Lee, Mumford and Huang, 2001) cover the whole picture at all scales. These are few, large and near the
    middle, on a ground of less contrast, as most photographs are of something on a ground. ``benchmarks/truth.py``
    measures how well they tell what drives a vector.

    Returns:
        a column ``image``, uint8 ``[pictures, SIDE, SIDE, 3]``.
    """
    drawn = np.stack([_picture(np.random.default_rng([seed, number])) for number in range(pictures)])
    return {"image": drawn}


def _picture(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    cells = rng.integers(0, 256, size=(rng.integers(*CELLS), rng.integers(*CELLS), 3)).astype(np.float64)
    ground = rng.integers(0, 256, 3) + (cells - 128) * rng.uniform(0, CONTRAST)
    picture = PIL.Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    picture = picture.resize((SIDE, SIDE), PIL.Image.Resampling.NEAREST)
    draw = PIL.ImageDraw.Draw(picture)
    for _ in range(rng.integers(*SHAPES)):
        radius = rng.uniform(*RADII)
        x, y = rng.normal(SIDE / 2, SCATTER, 2)
        colour = tuple(rng.integers(0, 256, 3).tolist())
        if rng.random() < 0.5:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        else:
            wide = radius * rng.uniform(0.5, 1.5)
            draw.rectangle((x - wide, y - radius, x + wide, y + radius), fill=colour)
    return np.asarray(picture)
