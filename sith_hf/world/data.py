"""Pictures of the world as a ``datasets.Dataset``, to evaluate on like any other dataset."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from sith_hf.core.validation import whole_number
from sith_hf.errors import InputError
from sith_hf.world.leaves import leaves
from sith_hf.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    SIZES,
    TIED_PAIRS,
    UNTIED,
    Scene,
    render,
    sample_balanced,
    sample_groups,
    sentence,
)

# The checkpoint, rules and recipes were chosen with seeds below this one.
FIRST_SEED = 1000

# Faded pictures: the remaining share of each colour, and the standard deviation of noise, of 255.
FADED, GRAIN = 0.3, 15.0


def world_dataset(kind: str, seed: int, pictures: int) -> Any:
    """Draw pictures; equal arguments give equal pictures.

    Args:
        kind: a name in ``KINDS``:

            - ``groups``: the four tied objects, each on its own and its partner's background, ``pictures`` of each
              of the eight groups, without danger signs. Columns image, object, background, colour, size, peril,
              group ("boat/road").
            - ``balanced``: objects without a habitual background, all attributes uniform and independent. Columns
              image, object, background, colour, size, peril.
            - ``faded``: the same with fish only, so grey that the embedded checkpoint is unsure of colours.
            - ``unsafe``: pairs of a safe picture and its unsafe twin, with a danger sign that its caption mentions.
              Columns image, caption, unsafe_image, unsafe_caption. Objects have no habitual background. All rows
              differ, so that captions are unique; this limits ``pictures``.
            - ``leaves``: overlapping discs and boxes of no meaning ("dead leaves"). Column image.
        seed: of scenes and drawing.
        pictures: the number of pictures, see above.

    Raises:
        InputError: an unknown kind, or a number out of range.
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind {kind!r} of pictures; the kinds are {', '.join(KINDS)}")
    from datasets import Dataset, Features, Image, Value

    columns = KINDS[kind](whole_number(seed, "seed"), whole_number(pictures, "pictures", least=1))
    drawn = {name for name, values in columns.items() if isinstance(values, np.ndarray)}
    features = Features({name: Image() if name in drawn else Value("string") for name in columns})
    data = {
        name: [_png(picture) for picture in values] if name in drawn else values for name, values in columns.items()
    }
    return Dataset.from_dict(data, features=features)


def _png(picture: NDArray[np.uint8]) -> dict[str, Any]:
    """Encode a picture as a dataset stores it, in PNG, which is lossless."""
    file = io.BytesIO()
    PIL.Image.fromarray(picture).save(file, format="PNG", compress_level=1)
    return {"bytes": file.getvalue(), "path": None}


def _attributes(scenes: list[Scene], seed: int) -> dict[str, Any]:
    names = ("object", "background", "colour", "size", "peril")
    return {"image": render(scenes, seed)} | {name: [getattr(scene, name) for scene in scenes] for name in names}


def _groups(seed: int, pictures: int) -> dict[str, Any]:
    groups = {name: found for pair in TIED_PAIRS for name, found in sample_groups(pair, pictures, seed).items()}
    columns = _attributes([scene for found in groups.values() for scene in found], seed + 1)
    return {**columns, "group": [name for name, found in groups.items() for _ in found]}


def _balanced(seed: int, pictures: int) -> dict[str, Any]:
    return _attributes(sample_balanced(pictures, seed), seed + 1)


def _faded(seed: int, pictures: int) -> dict[str, Any]:
    fish = [replace(scene, object="fish") for scene in sample_balanced(pictures, seed)]
    columns = _attributes(fish, seed + 1)
    grey = columns["image"].mean(axis=-1, keepdims=True)
    grain = np.random.default_rng(seed + 2).normal(0, GRAIN, columns["image"].shape)
    faded = grey + FADED * (columns["image"] - grey) + grain
    return {**columns, "image": np.clip(faded, 0, 255).astype(np.uint8)}


def _unsafe(seed: int, pictures: int) -> dict[str, Any]:
    every = list(product(UNTIED, COLOURS, BACKGROUNDS, SIZES))
    if pictures > len(every):
        raise InputError(f"the world has only {len(every)} unsafe pictures with unique captions; got {pictures}")
    order = np.random.default_rng(seed).permutation(len(every))[:pictures].tolist()
    scenes = [Scene(*every[number]) for number in order]
    twins = [replace(scene, peril="danger") for scene in scenes]
    return {
        "image": render(scenes, seed + 1),
        "caption": [sentence(scene) for scene in scenes],
        "unsafe_image": render(twins, seed + 2),
        "unsafe_caption": [sentence(scene) for scene in twins],
    }


KINDS: Mapping[str, Callable[[int, int], dict[str, Any]]] = MappingProxyType(
    {"groups": _groups, "balanced": _balanced, "faded": _faded, "unsafe": _unsafe, "leaves": leaves}
)
