"""The images that a user names: a dataset, its folder or Hub id, or drawn leaves in place of data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Union

from sith_hf.data import columns_of
from sith_hf.errors import InputError
from sith_hf.images.dataset_settings import DatasetSettings
from sith_hf.images.datasets import ImageDataset, open_dataset

if TYPE_CHECKING:
    import datasets

LEAVES = "leaves"
"""The name of drawn dead leaves (:func:`sith_hf.world.leaves.leaves`), for questions that need images and no data."""

PICTURES = 1000
"""Drawn leaves in place of images."""

Images = Union[DatasetSettings, str, Path, "datasets.Dataset", "datasets.IterableDataset", None]


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
        "images must be a DatasetSettings, the folder, file or Hub id of a dataset, an opened datasets.Dataset or "
        f'IterableDataset, or "leaves"; got {type(images).__name__}'
    )


def image_dataset(images: Images, pictures: int = PICTURES, *, progress: bool = False) -> ImageDataset:
    """Open the images that a user names, or take an opened ``datasets.Dataset`` or ``IterableDataset``.

    Args:
        images, pictures: as for :func:`images_named`; an opened dataset needs a column ``image``.
        progress: ``datasets`` shows its bars on stderr.

    Raises:
        InputError: another kind of value, or as for :func:`open_dataset`.
    """
    from datasets import Dataset, IterableDataset

    if not isinstance(images, Dataset | IterableDataset):
        return open_dataset(images_named(images, pictures), progress=progress)
    title = "a dataset in memory"
    data = DatasetSettings(dataset=title, streaming=isinstance(images, IterableDataset))
    return ImageDataset(data, title, str(images.split or ""), images, columns_of(images, title))
