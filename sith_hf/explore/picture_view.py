"""A picture and a small grid of pictures before and after an edit: labels, and the place in the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sith_hf.core.reading import read_bytes
from sith_hf.edits import EditSpec
from sith_hf.errors import InputError
from sith_hf.evaluation import Temperature, check_sizes, class_embeddings, unmeasurable
from sith_hf.explore.explorer import Explorer
from sith_hf.grounding import View
from sith_hf.images import (
    BASE,
    EDITED,
    BrokenImage,
    DatasetSettings,
    ModelVariant,
    decode_image,
    edited_copy,
    embed_all,
    image_dataset,
    model_variants,
    own_text,
    pixel_values,
    private_copy,
    text_model_of,
)
from sith_hf.towers import LoadedModel
from sith_hf.world import TIED_PAIRS

TEMPLATE = "a photo of a {}"
"""The prompt around each label."""

MOST_LABELS, LONGEST = 50, 200
"""The largest number of labels, and of characters of one."""

GRID = 8
"""The number of pictures in the grid."""

MOST_BYTES = 200 * 2**20
"""The largest file of a picture."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as the model takes it. The file that it was read from is not needed again.

    Attributes:
        pixels: ``[3, S, S]`` pixel values.
        shown: the same as a PNG file, resized and cropped as the model sees it.
    """

    pixels: Tensor = field(repr=False)
    shown: bytes = field(repr=False)


@dataclass(frozen=True)
class LabelRow:
    """A label with its probability before and after."""

    label: str
    base: float
    edited: float


@dataclass(frozen=True)
class PictureView:
    """The labels of one picture before and after an edit.

    Attributes:
        rows: in the order of the labels.
        base, edited: the label with the highest probability, before and after.
        moved: how far the edit moves the embedding of the picture, 1 - cosine.
        one_of: whether probabilities add up to 1 (CLIP), or each label is judged by itself (SigLIP).
        temperature: what the model multiplies cosines by; None if it does not record that, and 100 is used.
    """

    rows: tuple[LabelRow, ...]
    base: str
    edited: str
    moved: float
    one_of: bool
    temperature: float | None

    @property
    def changed(self) -> bool:
        """Whether another label is the most probable one after the edit."""
        return self.base != self.edited


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture of the grid, and its labels."""

    shown: bytes = field(repr=False)
    view: PictureView


@dataclass(frozen=True, eq=False)
class GridView:
    """Pictures before and after an edit.

    Attributes:
        title: where the pictures are from.
        pictures: with their labels.
    """

    title: str
    pictures: tuple[Seen, ...]

    @property
    def changed(self) -> int:
        """The number of pictures whose most probable label changes."""
        return sum(picture.view.changed for picture in self.pictures)


def read_labels(text: str) -> tuple[str, ...]:
    """Return labels that are separated by commas or line breaks, each once.

    Raises:
        InputError: fewer than two, too many, or one that is too long.
    """
    parts = (part.strip() for line in text.splitlines() for part in line.split(","))
    labels = tuple(dict.fromkeys(part for part in parts if part))
    if len(labels) < 2:
        raise InputError("write at least two labels with a comma between them, such as: boat, bird")
    if len(labels) > MOST_LABELS:
        raise InputError(f"these are {len(labels)} labels, and at most {MOST_LABELS} are compared: write fewer")
    longest = max(labels, key=len)
    if len(longest) > LONGEST:
        raise InputError(
            f"a label has at most {LONGEST} characters, and one has {len(longest)}: put commas between labels"
        )
    return labels


def default_labels(explorer: Explorer) -> str:
    """Return labels of the pictures that are drawn without images of the user; none for images."""
    return "" if explorer.images not in (None, "world") else ", ".join(name for pair in TIED_PAIRS for name, _ in pair)


def read_picture(explorer: Explorer, path: str | Path) -> Picture:
    """Read a file of a picture, as the model takes it.

    Raises:
        InputError: no model, or a file that is no picture, damaged, or too large.
    """
    advice = "choose another picture, such as a JPEG or PNG"
    try:
        return _picture(opened_model(explorer), decode_image(read_bytes(path, MOST_BYTES)))
    except BrokenImage as error:
        raise InputError(f"this file cannot be shown ({error}): {advice}") from None
    except (OSError, ValueError):
        raise InputError(
            f"this file cannot be read, or is larger than {MOST_BYTES // 2**20} megabytes: {advice}"
        ) from None


def compare_picture(explorer: Explorer, spec: EditSpec | None, picture: Picture, labels: Sequence[str]) -> PictureView:
    """Return the labels of a picture before and after an edit; the base twice without one.

    Raises:
        InputError: a model without texts, or that cannot be edited.
    """
    return compare_pictures(explorer, spec, [picture], labels)[0]


def compare_grid(explorer: Explorer, spec: EditSpec | None, labels: Sequence[str]) -> GridView:
    """Return some pictures before and after an edit: of the explorer's images, else of the drawn world.

    Raises:
        InputError: as for :func:`compare_picture`, or images that cannot be read.
    """
    title, pictures = _grid(explorer)
    views = compare_pictures(explorer, spec, pictures, labels)
    return GridView(title, tuple(Seen(each.shown, view) for each, view in zip(pictures, views, strict=True)))


def compare_pictures(
    explorer: Explorer, spec: EditSpec | None, pictures: Sequence[Picture], labels: Sequence[str]
) -> list[PictureView]:
    """Return the labels of pictures before and after an edit. The weights of the shared model do not change."""
    with explorer.running():
        return _compared(explorer, spec, pictures, labels)


def _compared(
    explorer: Explorer, spec: EditSpec | None, pictures: Sequence[Picture], labels: Sequence[str]
) -> list[PictureView]:
    editor, opened = explorer.editor, opened_model(explorer)
    text = text_model_of(editor)
    if text is None:
        raise InputError(f"labels cannot be compared: {unmeasurable(editor)}")
    variants = [replace(opened, model=private_copy(opened.model))]
    if spec:
        model = edited_copy(opened.model, spec)
        variants.append(replace(opened, name=EDITED, model=model, text=own_text(editor, model)))
    pixels = torch.stack([picture.pixels for picture in pictures]).to(next(opened.model.parameters()).device)
    with torch.inference_mode():
        found = [each.float().cpu().numpy() for each in embed_all(variants, pixels)]
    classes = [_classes(explorer, tuple(labels), variant.text, text) for variant in variants]
    check_sizes(np.stack(found), classes)
    temperature = Temperature.of(text.model)
    chances = [temperature.probabilities(own, known) for own, known in zip(found, classes, strict=True)]
    moved = 1 - (found[0].astype(np.float64) * found[-1]).sum(axis=-1)
    return [
        _view(labels, chances[0][number], chances[-1][number], float(moved[number]), temperature)
        for number in range(len(pictures))
    ]


def _view(
    labels: Sequence[str], base: NDArray[Any], edited: NDArray[Any], moved: float, temperature: Temperature
) -> PictureView:
    rows = zip(labels, base.tolist(), edited.tolist(), strict=True)
    return PictureView(
        tuple(LabelRow(*row) for row in rows),
        labels[int(base.argmax())],
        labels[int(edited.argmax())],
        max(0.0, moved),
        temperature.bias is None,
        temperature.scale if temperature.known else None,
    )


def _classes(
    explorer: Explorer, labels: tuple[str, ...], own: LoadedModel | None, text: LoadedModel
) -> NDArray[np.float64]:
    return _base_classes(explorer, labels) if own is None else class_embeddings(own, labels, (TEMPLATE,))


@lru_cache(maxsize=16)
def _base_classes(explorer: Explorer, labels: tuple[str, ...]) -> NDArray[np.float64]:
    return class_embeddings(text_model_of(explorer.editor), labels, (TEMPLATE,))


@lru_cache(maxsize=4)
def opened_model(explorer: Explorer) -> ModelVariant:
    """Return the model as it takes images. Raises InputError if it embeds no images, or no texts with them."""
    reason = unmeasurable(explorer.editor)
    if reason is not None:
        raise InputError(f"pictures cannot be compared: {reason}")
    (variant,) = model_variants(explorer.editor, {BASE: None})
    return variant


@lru_cache(maxsize=4)
def _grid(explorer: Explorer) -> tuple[str, tuple[Picture, ...]]:
    """Return the first readable pictures of the explorer's images, or drawn ones, and where they are from."""
    variant = opened_model(explorer)
    drawn = DatasetSettings(world="groups", seed=0, pictures=1)
    source = image_dataset(drawn if explorer.images in (None, "world") else explorer.images, GRID)
    column = source.data.columns.image
    source.check([column])

    def readable() -> Any:
        for row in source.read([], [column]):
            try:
                yield _picture(variant, decode_image(row[column]))
            except BrokenImage:
                continue

    pictures = tuple(islice(readable(), GRID))
    if not pictures:
        raise InputError(f"{source.title}: no picture can be read: start again with other --images")
    return source.title, pictures


def _picture(variant: ModelVariant, decoded: Any) -> Picture:
    pixels = pixel_values(variant, [decoded])[0]
    return Picture(pixels, View(variant).picture(pixels))
