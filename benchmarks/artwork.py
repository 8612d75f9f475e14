"""Emoji in three drawing styles, and pictures of them on drawn backgrounds: the raw material of second_world.py."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import affine_grid, grid_sample

from sith_hf.world import IMAGE_SIZE

Bytes = NDArray[np.uint8]
Indices = NDArray[np.int64]
Floats = NDArray[np.float64]

SPRITE, CANVAS, TEXTURES = 64, 72, 60

# Packages by style: name, version, integrity as npm gives it, and the folder of its pictures.
PACKAGES = {
    "twemoji": (
        "emoji-datasource-twitter",
        "16.0.0",
        "sha512-7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
        "package/img/twitter/64/",
    ),
    "fluent": (
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
        "package/assets/",
    ),
    "noto": (
        "emoji-datasource-google",
        "16.0.0",
        "sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
        "package/img/google/64/",
    ),
}
TRAINED, UNSEEN = ("twemoji", "fluent"), "noto"
CATEGORIES = ("Animals & Nature", "Food & Drink", "Activities", "Travel & Places", "Objects")


@dataclass(frozen=True)
class Artwork:
    """Pictures of things in several styles."""

    names: list[str]
    kinds: list[str]
    """The kind of each thing."""
    sprites: dict[str, Bytes]
    """By style, RGBA ``[things, SPRITE, SPRITE, 4]``."""

    def words(self) -> list[str]:
        """Return every thing, background and kind once."""
        return list(dict.fromkeys([*self.names, *BACKGROUNDS, *sorted(self.kinds)]))


def download(package: str, version: str, integrity: str, cache: Path) -> Path:
    """Return the archive of a package in the cache, fetched by npm if it is not there."""
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{package.removeprefix('@').replace('/', '-')}-{version}.tgz"
    if not path.exists():
        subprocess.run(
            ["npm", "pack", "--silent", f"{package}@{version}", "--pack-destination", str(cache)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    found = "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != integrity:
        raise SystemExit(f"{path} has the hash {found}, not {integrity}. Delete it and try again.")
    return path


def load_artwork(cache: Path) -> Artwork:
    """Return the things that every style draws."""
    pictures: dict[str, dict[str, bytes]] = {}
    table: list[dict[str, str]] = []
    for style, (package, version, integrity, folder) in PACKAGES.items():
        with tarfile.open(download(package, version, integrity, cache)) as archive:
            pictures[style] = {}
            for member in archive:
                if member.name.startswith(folder) and (file := archive.extractfile(member)):
                    pictures[style][Path(member.name).stem] = file.read()
                elif member.name == "package/emoji.json" and (file := archive.extractfile(member)):
                    table = json.load(file)
    things: dict[str, tuple[str, str]] = {}
    unusable = {"other", *BACKGROUNDS}
    for entry in sorted(table, key=lambda entry: int(entry["sort_order"])):
        name = " ".join(re.findall("[a-z]+", entry["name"].lower()))
        kind = " ".join(word for word in reversed(re.findall("[a-z]+", entry["subcategory"])) if word not in unusable)
        code = Path(entry["image"]).stem
        drawn = all(code in found for found in pictures.values())
        wanted = entry["category"] in CATEGORIES and kind != "time" and not set(name.split()) & set(BACKGROUNDS)
        if drawn and wanted:
            things.setdefault(name, (kind, code))
    sprites = {
        style: np.stack([sprite(found[code]) for _, code in things.values()]) for style, found in pictures.items()
    }
    return Artwork(list(things), [kind for kind, _ in things.values()], sprites)


def sprite(data: bytes) -> Bytes:
    """Return a picture as RGBA ``[SPRITE, SPRITE, 4]``."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGBA").resize((SPRITE, SPRITE), Image.Resampling.LANCZOS))


def noise(rng: np.random.Generator, rows: int, columns: int) -> Floats:
    """Return smooth noise ``[CANVAS, CANVAS]`` of about unit size with this number of cells."""
    cells = Image.fromarray(rng.normal(size=(rows, columns)).astype(np.float32))
    return np.asarray(cells.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC), dtype=np.float64)


def tiles(rng: np.random.Generator, height: int, width: int, shift: int) -> Floats:
    """Return 1 at the joints of tiles, else 0; each row of tiles is shifted."""
    y, x = np.mgrid[:CANVAS, :CANVAS] + rng.integers(0, 40, size=2)[:, None, None]
    return ((y % height < 1.5) | ((x + shift * (y // height)) % width < 1.5)).astype(float)


def dashes(rng: np.random.Generator) -> Floats:
    y, x = np.mgrid[:CANVAS, :CANVAS] + rng.integers(0, 40, size=2)[:, None, None]
    return ((y % 26 < 3) & (x % 20 < 12)).astype(float)


# Two colours, the share of the second one at every point, and the grain. None is a texture of the first world.
Painter = tuple[tuple[int, int, int], tuple[int, int, int], Callable[[np.random.Generator], NDArray[Any]], float]
BACKGROUNDS: dict[str, Painter] = {
    "road": ((92, 92, 98), (230, 225, 200), dashes, 9),
    "sand": ((222, 190, 130), (190, 150, 95), lambda rng: noise(rng, 16, 5) * 0.4, 7),
    "snow": ((238, 243, 250), (190, 208, 232), lambda rng: noise(rng, 5, 5) * 0.5, 3),
    "water": ((45, 120, 190), (150, 205, 235), lambda rng: (noise(rng, 24, 6) > 0.8) * 0.8, 4),
    "grass": ((85, 160, 62), (45, 105, 35), lambda rng: noise(rng, 9, 40) * 0.6, 8),
    "brick": ((160, 75, 58), (205, 198, 190), lambda rng: tiles(rng, 9, 18, 9), 8),
    "wood": ((160, 112, 68), (105, 68, 38), lambda rng: noise(rng, 40, 3) * 0.4 + tiles(rng, 18, 90, 37), 3),
    "sky": ((125, 185, 240), (250, 250, 252), lambda rng: noise(rng, 5, 4), 1),
    "night": ((18, 20, 52), (240, 235, 200), lambda rng: rng.random((CANVAS, CANVAS)) < 0.02, 2),
    "leaves": ((34, 82, 40), (110, 140, 50), lambda rng: noise(rng, 14, 14) > 0.5, 6),
}


def textures(seed: int) -> Bytes:
    """Paint every background in a number of variants, ``[backgrounds, TEXTURES, CANVAS, CANVAS, 3]``."""
    rng = np.random.default_rng(seed)

    def paint(
        first: tuple[int, ...], second: tuple[int, ...], place: Callable[..., NDArray[Any]], grain: float
    ) -> Floats:
        share = np.clip(place(rng).astype(float), 0, 1)[:, :, None]
        light = rng.normal(0, 8) + grain * rng.normal(size=(CANVAS, CANVAS, 1))
        return np.asarray(np.array(first) * (1 - share) + np.array(second) * share + light)

    painted = [[paint(*painter) for _ in range(TEXTURES)] for painter in BACKGROUNDS.values()]
    return np.clip(painted, 0, 255).astype(np.uint8)


def compose(sprites: Bytes, pool: Bytes, backgrounds: Indices, rng: np.random.Generator, tint: float = 0.0) -> Bytes:
    """Paste sprites at random sizes, places and angles on crops of backgrounds.

    Args:
        sprites: RGBA ``[N, SPRITE, SPRITE, 4]``.
        pool: the textures.
        backgrounds: indices ``[N]``.
        tint: how far the colours of a sprite may be scaled.

    Returns:
        pictures ``[N, IMAGE_SIZE, IMAGE_SIZE, 3]``.
    """
    count = len(sprites)
    chosen = pool[backgrounds, rng.integers(0, TEXTURES, count)]
    top, left = rng.integers(0, CANVAS - IMAGE_SIZE + 1, (2, count, 1))
    steps, rows = np.arange(IMAGE_SIZE), np.arange(count)[:, None, None]
    ground = chosen[rows, (top + steps)[:, :, None], (left + steps)[:, None, :]]
    share, angle = rng.uniform(0.5, 0.95, count), rng.uniform(-0.25, 0.25, count)
    cos, sin = np.cos(angle) / share, np.sin(angle) / share
    right, down = rng.uniform(-1, 1, (2, count)) * (1 - share)
    places = np.stack([cos, -sin, sin * down - cos * right, sin, cos, -sin * right - cos * down], axis=1)
    theta = torch.from_numpy(places.reshape(count, 2, 3)).float()
    grid = affine_grid(theta, [count, 4, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    layer = torch.from_numpy(sprites).permute(0, 3, 1, 2).float() / 255
    # Colours of transparent pixels must not bleed into the outline.
    alpha = layer[:, 3:]
    layer = torch.cat([layer[:, :3] * alpha, alpha], dim=1)
    moved = grid_sample(layer, grid, align_corners=False).permute(0, 2, 3, 1).numpy()
    scale = rng.uniform(1 - tint, 1 + tint, (count, 1, 1, 3))
    mixed = moved[..., :3] * scale * 255 + ground * (1 - moved[..., 3:])
    return np.clip(mixed, 0, 255).astype(np.uint8)
