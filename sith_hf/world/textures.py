"""The backgrounds of the world, drawn as small seeded textures."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sith_hf.world.drawing import CANVAS

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]

TEXTURES = 40


def _noise(rng: np.random.Generator, rows: int, columns: int) -> Floats:
    """Return smooth noise of about unit size `[CANVAS, CANVAS]` with the given number of cells each way."""
    cells = rng.normal(size=(rows + 1, columns + 1))
    y, x = np.linspace(0, rows - 1e-6, CANVAS), np.linspace(0, columns - 1e-6, CANVAS)
    top, left = y.astype(int), x.astype(int)
    v, u = (y - top)[:, None], (x - left)[None, :]
    upper = cells[top][:, left] * (1 - u) + cells[top][:, left + 1] * u
    lower = cells[top + 1][:, left] * (1 - u) + cells[top + 1][:, left + 1] * u
    return np.asarray(upper * (1 - v) + lower * v)


def _grid() -> tuple[Floats, Floats]:
    y, x = np.mgrid[0:CANVAS, 0:CANVAS]
    return y.astype(float), x.astype(float)


def _tint(colour: tuple[int, int, int], light: Floats) -> Floats:
    return np.asarray(np.array(colour)[None, None, :] + light[:, :, None])


def _sea(rng: np.random.Generator) -> Floats:
    y, x = _grid()
    waves = np.sin(y * rng.uniform(0.7, 0.9) + 1.5 * np.sin(x * 0.25 + rng.uniform(0, 6)) + rng.uniform(0, 6))
    return _tint((45, 115, 185), 26 * waves + 8 * _noise(rng, 6, 6))


def _road(rng: np.random.Generator) -> Floats:
    y, x = _grid()
    picture = _tint((112, 112, 116), 7 * rng.normal(size=y.shape))
    phase, lane = rng.uniform(0, 20), rng.integers(8, 20)
    stripes = ((y - lane) % 20 < 3) & ((x + phase) % 18 < 11)
    picture[stripes] = (225, 222, 205)
    return picture


def _meadow(rng: np.random.Generator) -> Floats:
    y, _ = _grid()
    blades = np.repeat(rng.normal(size=(CANVAS // 4, CANVAS)), 4, axis=0)
    picture = _tint((95, 175, 70), 20 * blades + 8 * _noise(rng, 5, 5))
    flowers = rng.random(y.shape) < 0.012
    picture[flowers] = (245, 235, 140)
    return picture


def _forest(rng: np.random.Generator) -> Floats:
    _, x = _grid()
    picture = _tint((32, 78, 42), 16 * _noise(rng, 14, 14))
    trunks = (x + 2 * _noise(rng, 3, 3) + rng.uniform(0, 14)) % 14 < 4.5
    picture[trunks] = np.array((82, 55, 34)) + 5 * rng.normal(size=(int(trunks.sum()), 1))
    return picture


def _desert(rng: np.random.Generator) -> Floats:
    y, x = _grid()
    dunes = np.sin(y * 0.28 + x * rng.uniform(0.08, 0.16) + 1.2 * np.sin(x * 0.11 + rng.uniform(0, 6)))
    return _tint((222, 182, 112), 20 * dunes + 4 * rng.normal(size=y.shape))


def _snow(rng: np.random.Generator) -> Floats:
    y, _ = _grid()
    picture = _tint((228, 236, 244), 7 * _noise(rng, 4, 4))
    flakes = rng.random(y.shape) < 0.07
    picture[flakes] = (180, 200, 225)
    return picture


def _night(rng: np.random.Generator) -> Floats:
    y, _ = _grid()
    picture = _tint((18, 18, 52), 6 * _noise(rng, 3, 3))
    stars = rng.random(y.shape) < 0.02
    picture[stars] = (235, 235, 200)
    return picture


def _brick(rng: np.random.Generator) -> Floats:
    y, x = _grid()
    row = np.floor((y + rng.uniform(0, 8)) / 8)
    column = np.floor((x + 7 * (row % 2) + rng.uniform(0, 14)) / 14)
    shade = rng.normal(size=(16, 16))[row.astype(int) % 16, column.astype(int) % 16]
    picture = _tint((165, 78, 62), 12 * shade + 4 * rng.normal(size=y.shape))
    edge = (np.diff(row, axis=0, prepend=-1) != 0) | (np.diff(column, axis=1, prepend=-1) != 0)
    picture[edge] = (205, 196, 186)
    return picture


_PAINTERS: dict[str, Callable[[np.random.Generator], Floats]] = {
    "sea": _sea,
    "road": _road,
    "meadow": _meadow,
    "forest": _forest,
    "desert": _desert,
    "snow": _snow,
    "night": _night,
    "brick": _brick,
}


@lru_cache(maxsize=4)
def texture_pool(names: tuple[str, ...]) -> Bytes:
    """Paint every background a number of times.

    Returns:
        Pixels, uint8 `[len(names), TEXTURES, CANVAS, CANVAS, 3]`.
    """
    rng = np.random.default_rng(20261)
    painted = [[_PAINTERS[name](rng) for _ in range(TEXTURES)] for name in names]
    pool: Bytes = np.clip(np.array(painted), 0, 255).astype(np.uint8)
    return pool
