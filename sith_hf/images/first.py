"""The first readable images of a dataset, as batches in memory, for measurements that need few."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sith_hf.images.decode import decode_image
from sith_hf.images.embed import LEAST_IMAGES, check_count, pixel_values
from sith_hf.images.model_variant import ModelVariant
from sith_hf.images.named import Images, image_dataset
from sith_hf.images.pieces import described, fingerprint, hex_of
from sith_hf.images.pixels import BrokenImage


def first_images(
    variant: ModelVariant, images: Images, most: int, batch_size: int = 8
) -> tuple[list[Tensor], dict[str, Any]]:
    """Return the pixel values of the first readable images of a dataset, and their record.

    Args:
        variant: the model that takes them.
        images: as :func:`image_dataset` takes them; as many drawn leaves when None.
        most: the largest number of images.
        batch_size: images in a batch.

    Returns:
        batches ``[B, 3, S, S]``; JSON values that describe the dataset, with ``count`` and ``images_sha256``.

    Raises:
        InputError: fewer than 32 readable images, a missing column, or as for :func:`image_dataset`.
    """
    source = image_dataset(images, most)
    column = source.data.columns.image
    source.check([column])
    pictures: list[Any] = []
    skipped: dict[str, int] = {}
    total = 0
    for row in source.read([], [column]):
        number = fingerprint([row], column)
        try:
            pictures.append(decode_image(row[column]))
        except BrokenImage as error:
            skipped[str(error)] = skipped.get(str(error), 0) + 1
            continue
        total += number
        if len(pictures) == most:
            break
    check_count(len(pictures), source.title, skipped)
    batches = [pixel_values(variant, pictures[n : n + batch_size]) for n in range(0, len(pictures), batch_size)]
    return batches, {**described(source), "count": len(pictures), "images_sha256": hex_of(total)}


def check_readable(images: Images) -> None:
    """Read the first images of a dataset, so that one without enough of them is refused before long work.

    Raises:
        InputError: fewer than 32 readable images, a missing column, or as for :func:`image_dataset`.
    """
    source = image_dataset(images)
    if source.data.world is not None:
        return
    column = source.data.columns.image
    source.check([column])
    count, skipped = 0, dict[str, int]()
    for row in source.read([], [column]):
        try:
            decode_image(row[column])
        except BrokenImage as error:
            skipped[str(error)] = skipped.get(str(error), 0) + 1
            continue
        count += 1
        if count == LEAST_IMAGES:
            return
    check_count(count, source.title, skipped)
