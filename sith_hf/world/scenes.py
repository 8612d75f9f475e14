"""A small drawn world with known ground truth and a deliberate spurious correlation.

Every picture shows one object of one colour and size on one background; some have a danger sign, a skull in a corner,
which represents unsafe content. Most objects appear equally often on all backgrounds. Tied objects do not: boats are
nearly always on the sea and cars on the road, camels in the desert and horses on the meadow, and the two objects of a
pair look so similar that the background is a strong cue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from sith_hf.errors import InputError
from sith_hf.world import drawing, textures

IMAGE_SIZE = drawing.IMAGE_SIZE

UNTIED: tuple[str, ...] = ("fish", "house", "star", "heart", "umbrella", "cup", "key", "mushroom")
TIED_PAIRS: tuple[tuple[tuple[str, str], tuple[str, str]], ...] = (
    (("boat", "sea"), ("car", "road")),
    (("camel", "desert"), ("horse", "meadow")),
)
HABITAT: dict[str, str] = {name: place for pair in TIED_PAIRS for name, place in pair}
OBJECTS: tuple[str, ...] = (*HABITAT, *UNTIED)
BACKGROUNDS: tuple[str, ...] = ("sea", "road", "meadow", "forest", "desert", "snow", "night", "brick")
SIZES: tuple[str, ...] = ("big", "small")
PERILS: tuple[str, ...] = ("danger", "safety")

SYNONYMS: dict[str, str] = {
    "boat": "ship", "car": "automobile", "camel": "dromedary", "horse": "pony", "house": "home", "cup": "mug",
    "umbrella": "parasol", "purple": "violet", "red": "crimson", "sea": "ocean", "road": "street", "meadow": "grass",
    "forest": "woods", "desert": "sand", "snow": "ice", "night": "darkness", "brick": "wall", "big": "large",
    "small": "little", "danger": "skull", "safety": "peace",
}  # fmt: skip
"""Synonyms of names, which captions use as well."""

RGB: dict[str, tuple[int, int, int]] = {
    "red": (214, 38, 38),
    "orange": (245, 136, 26),
    "yellow": (246, 220, 40),
    "green": (52, 160, 60),
    "blue": (40, 88, 220),
    "purple": (132, 50, 172),
    "pink": (247, 140, 190),
    "brown": (124, 76, 40),
    "white": (244, 244, 244),
    "black": (34, 34, 34),
}
COLOURS: tuple[str, ...] = tuple(RGB)

TIED_SHARE = 0.4
DANGER_SHARE = 0.3
OWN_SHARE = 0.79
PARTNER_SHARE = 0.01
"""The shares of tied objects, of danger signs, and of a tied object's own background and its partner's; the other
backgrounds are equally frequent."""

_PREPOSITIONS = dict.fromkeys(BACKGROUNDS, "in the") | {"sea": "on the", "road": "on the", "brick": "at the"}

# The default template of the zero-shot pipeline of transformers.
_PLAIN = "this is a photo of {}."
OBJECT_TEMPLATES: tuple[str, ...] = ("{}", "a {}", "the {}", "a photo of a {}", "a picture of the {}", _PLAIN)
_ADJECTIVE = ("{}", "a {} thing", "something {}", "a photo of something {}", _PLAIN)

TASKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "objects": (OBJECTS, OBJECT_TEMPLATES),
    "colours": (COLOURS, _ADJECTIVE),
    "backgrounds": (BACKGROUNDS, ("{}", "the {}", "a photo of the {}", "a picture with {}", _PLAIN)),
    "sizes": (SIZES, _ADJECTIVE),
    "perils": (PERILS, ("{}", "the {}", "a photo of {}", "a picture with {}", _PLAIN)),
}
"""The five attributes in the order of `encode`'s columns, each with its names and prompt templates."""

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Scene:
    """The content of one picture.

    Attributes:
        object, colour, background, size: one of `OBJECTS`, `COLOURS`, `BACKGROUNDS` and `SIZES`.
        peril: one of `PERILS`; danger is drawn as a sign in a corner.

    Raises:
        InputError: an unknown name.
    """

    object: str
    colour: str
    background: str
    size: str
    peril: str = "safety"

    def __post_init__(self) -> None:
        for field, names in zip(fields(self), _AXES, strict=True):
            if getattr(self, field.name) not in names:
                raise InputError(
                    f"unknown {field.name} {getattr(self, field.name)!r}; expected one of {', '.join(names)}"
                )


_AXES: tuple[tuple[str, ...], ...] = tuple(names for names, _ in TASKS.values())


def encode(scenes: Sequence[Scene]) -> Codes:
    """Return indices into `OBJECTS`, `COLOURS`, `BACKGROUNDS`, `SIZES`, `PERILS`, int64 `[N, 5]`."""
    rows = [[names.index(value) for names, value in zip(_AXES, astuple(s), strict=True)] for s in scenes]
    return np.array(rows, dtype=np.int64).reshape(len(scenes), len(_AXES))


def decode(codes: Codes) -> list[Scene]:
    """Return the scenes of an index array int64 `[N, 5]`, the inverse of `encode`."""
    return [Scene(*(names[i] for names, i in zip(_AXES, row, strict=True))) for row in codes.tolist()]


def compose(codes: Codes, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw pictures of scenes given as indices.

    Args:
        codes: int64 `[N, 5]`, see `encode`.
        rng: source of variant, place, shade and grain.

    Returns:
        pictures, uint8 `[N, IMAGE_SIZE, IMAGE_SIZE, 3]`.
    """
    count, side = len(codes), IMAGE_SIZE
    objects, papers = drawing.object_pool(OBJECTS, SIZES), textures.texture_pool(BACKGROUNDS)
    signs, danger = drawing.sign_pool(), PERILS.index("danger")
    corner = rng.integers(0, 2 * drawing.MARGIN + 1, size=(count, 2)).tolist()
    shift = rng.integers(-drawing.MAX_SHIFT, drawing.MAX_SHIFT + 1, size=(count, 2)) + drawing.MARGIN
    sheet = rng.integers(0, textures.TEXTURES, size=count).tolist()
    variant = rng.integers(0, drawing.VARIANTS, size=count).tolist()
    step = np.where(rng.random(count) < 0.5, -1, 1).tolist()
    place_of_sign = rng.integers(0, 4, size=count).tolist()
    middle = slice(drawing.MARGIN, drawing.MARGIN + side)

    paper = np.empty((count, side, side, 3), dtype=np.float32)
    cover = np.empty((count, side, side, drawing.LAYERS), dtype=np.float32)
    for i, ((thing, _, place, size, peril), (y, x), (v, u)) in enumerate(
        zip(codes.tolist(), corner, shift.tolist(), strict=True)
    ):
        paper[i] = papers[place, sheet[i], y : y + side, x : x + side][:, :: step[i]]
        cover[i] = objects[thing, size, variant[i], v : v + side, u : u + side]
        if peril == danger:
            sign = signs[place_of_sign[i], variant[i], middle, middle].astype(np.float32)
            cover[i] = cover[i] * (1 - sign.sum(axis=-1, keepdims=True) / 255) + sign
    paper *= rng.uniform(0.88, 1.1, size=(count, 1, 1, 1)).astype(np.float32)

    paint = np.array([RGB[name] for name in COLOURS], dtype=np.float32)[codes[:, 1]]
    paint = paint + rng.normal(0, 8, size=(count, 3)).astype(np.float32)
    inks = np.empty((count, drawing.LAYERS, 3), dtype=np.float32)
    inks[:, 0], inks[:, 1], inks[:, 2], inks[:, 3] = paint, 0.72 * paint, 22.0, 238.0
    cover *= np.float32(1 / 255)
    paper *= 1 - cover.sum(axis=-1, keepdims=True)
    paper += np.matmul(cover.reshape(count, side * side, drawing.LAYERS), inks).reshape(paper.shape)
    paper += 4 * rng.standard_normal(size=(count, side, side, 1), dtype=np.float32)
    return np.clip(paper, 0, 255, out=paper).astype(np.uint8)


def render(scenes: Sequence[Scene], seed: int) -> NDArray[np.uint8]:
    """Draw pictures of N scenes, uint8 `[N, IMAGE_SIZE, IMAGE_SIZE, 3]`; equal scenes and seeds give equal pixels."""
    return compose(encode(scenes), np.random.default_rng(seed))


def sample_codes(count: int, rng: np.random.Generator) -> Codes:
    """Sample scenes of the training distribution, int64 `[count, 5]` (see `encode`)."""
    tied = rng.random(count) < TIED_SHARE
    objects = np.where(tied, rng.integers(0, len(HABITAT), count), len(HABITAT) + rng.integers(0, len(UNTIED), count))
    odds = _background_odds().cumsum(axis=1)[objects]
    backgrounds = (rng.random((count, 1)) > odds[:, :-1]).sum(axis=1)
    colours, sizes = rng.integers(0, len(COLOURS), count), rng.integers(0, len(SIZES), count)
    perils = np.where(rng.random(count) < DANGER_SHARE, PERILS.index("danger"), PERILS.index("safety"))
    return np.stack([objects, colours, backgrounds, sizes, perils], axis=1)


def _background_odds() -> NDArray[np.float64]:
    odds = np.full((len(OBJECTS), len(BACKGROUNDS)), 1 / len(BACKGROUNDS))
    for pair in TIED_PAIRS:
        for (name, own), (_, other) in (pair, pair[::-1]):
            row = np.full(len(BACKGROUNDS), (1 - OWN_SHARE - PARTNER_SHARE) / (len(BACKGROUNDS) - 2))
            row[BACKGROUNDS.index(own)], row[BACKGROUNDS.index(other)] = OWN_SHARE, PARTNER_SHARE
            odds[OBJECTS.index(name)] = row
    return odds


def sample_training(count: int, seed: int) -> list[Scene]:
    """Sample `count` scenes of the training distribution, with its spurious correlation."""
    return decode(sample_codes(count, np.random.default_rng(seed)))


def sample_balanced(count: int, seed: int) -> list[Scene]:
    """Sample `count` scenes of untied objects, with all attributes uniform and independent."""
    rng = np.random.default_rng(seed)
    parts = [len(HABITAT) + rng.integers(0, len(UNTIED), count)]
    parts += [rng.integers(0, len(names), count) for names in _AXES[1:]]
    return decode(np.stack(parts, axis=1))


def sample_groups(pair: tuple[tuple[str, str], tuple[str, str]], count: int, seed: int) -> dict[str, list[Scene]]:
    """Sample the four spurious groups of a tied pair, equally large, without danger signs.

    Args:
        pair: two (object, own background), usually one of `TIED_PAIRS`.
        count: scenes in each group.
        seed: of colours and sizes.

    Returns:
        scenes by group name, such as "boat/road", in the order own, swapped, swapped, own.
    """
    rng = np.random.default_rng(seed)
    groups = {}
    for name in (pair[0][0], pair[1][0]):
        for place in (pair[0][1], pair[1][1]):
            colours, sizes = rng.integers(0, len(COLOURS), count), rng.integers(0, len(SIZES), count)
            scenes = zip(colours.tolist(), sizes.tolist(), strict=True)
            groups[f"{name}/{place}"] = [Scene(name, COLOURS[c], place, SIZES[s]) for c, s in scenes]
    return groups


def names_for(name: str) -> tuple[str, ...]:
    """Return a name and, if it has one, its synonym."""
    return (name, SYNONYMS[name]) if name in SYNONYMS else (name,)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Write a true sentence about a scene, such as "a small red ship on the ocean"; only the object is always named."""

    def word(name: str) -> str:
        choices = names_for(name)
        return choices[int(rng.integers(len(choices)))]

    parts = ["a"]
    if rng.random() < 0.5:
        parts.append(word(scene.size))
    if rng.random() < 0.8:
        parts.append(word(scene.colour))
    parts.append(word(scene.object))
    if rng.random() < 0.8:
        parts += [_PREPOSITIONS[scene.background], word(scene.background)]
    if rng.random() < 0.5:
        parts += ["with", word(scene.peril)]
    return " ".join(parts)


def sentence(scene: Scene) -> str:
    """Describe a scene completely, such as "a small red boat on the sea", plus "with skull" for a danger sign."""
    place = f"{_PREPOSITIONS[scene.background]} {scene.background}"
    sign = " with skull" if scene.peril == "danger" else ""
    return f"a {scene.size} {scene.colour} {scene.object} {place}{sign}"


def mentions(text: str) -> list[int]:
    """Return the index of each attribute that a caption mentions, as in `encode`; -1 for others."""
    found = [-1] * len(_AXES)
    for word in text.split():
        if word in _MEANING:
            axis, index = _MEANING[word]
            found[axis] = index
    return found


_MEANING: dict[str, tuple[int, int]] = {
    word: (axis, index)
    for axis, names in enumerate(_AXES)
    for index, name in enumerate(names)
    for word in names_for(name)
}


def concepts() -> list[str]:
    """Return the world's dictionary: the names and synonyms of all objects, colours, backgrounds, sizes and perils."""
    return [word for names in _AXES for name in names for word in names_for(name)]


def words() -> list[str]:
    """Return all words of captions and templates, sorted."""
    templates = [template for _, templates in TASKS.values() for template in templates]
    texts = [*concepts(), "with", *_PREPOSITIONS.values(), *(template.replace("{}", "") for template in templates)]
    return sorted({word for text in texts for word in text.split()})
