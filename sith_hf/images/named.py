"""The images that a user names: a dataset, its folder or Hub id, or drawn leaves in place of data."""

from __future__ import annotations

from pathlib import Path

from sith_hf.errors import InputError
from sith_hf.images.dataset_settings import DatasetSettings

LEAVES = "leaves"
"""The name of drawn dead leaves (:func:`sith_hf.world.leaves.leaves`), for questions that need images and no data."""

PICTURES = 1000
"""Drawn leaves in place of images."""

Images = DatasetSettings | str | Path | None


def images_named(images: Images, pictures: int = PICTURES) -> DatasetSettings:
    """Return the settings of images: of a folder, file or Hub id; of drawn leaves for ``"leaves"`` and None.

    Args:
        images: what the user names.
        pictures: the number of drawn leaves.

    Raises:
        InputError: another kind of value.
    """
    if images is None or images == LEAVES:
        return DatasetSettings(world="leaves", seed=0, pictures=pictures)
    if isinstance(images, DatasetSettings):
        return images
    if isinstance(images, str | Path):
        return DatasetSettings(dataset=str(images))
    raise InputError(
        f'images must be a DatasetSettings, the folder, file or Hub id of a dataset, or "leaves"; got '
        f"{type(images).__name__}"
    )
