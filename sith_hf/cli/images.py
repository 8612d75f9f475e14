"""The options that name images, and the settings that they make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from sith_hf.cli import options
from sith_hf.core.validation import whole_number
from sith_hf.errors import InputError

if TYPE_CHECKING:
    from sith_hf.images import DatasetSettings

effect_images = options.group(
    "images",
    click.option(
        "--images",
        "dataset",
        type=options.PLACE,
        help="Measure the effect of the edit on these images: a Hub dataset, a folder, or a Parquet file; at least 32. "
        " [default: 128 drawn pictures of shapes]",
    ),
    click.option("--config", "name", help="With --images: the configuration of a dataset with several."),
    click.option("--split", help="With --images: the split of a dataset with several."),
    click.option("--data-revision", help="With --images: branch, tag or commit of a Hub dataset."),
    click.option("--streaming", is_flag=True, default=None, help="With --images: read rows as a stream."),
    click.option("--column", help="With --images: the column of images.  [default: image]"),
    click.option("--limit", type=int, help="Use only the first N images, at least 32."),
)


def images_of(given: Mapping[str, Any]) -> DatasetSettings | None:
    """Return the images that the options name; None for the drawn ones.

    Raises:
        InputError: an option of a dataset without ``--images``, or a limit out of range.
    """
    from sith_hf.evaluation import leaves
    from sith_hf.images import LEAST_IMAGES

    data = dict(given)
    if "dataset" not in data:
        limit = data.pop("limit", None)
        if data:
            shown = ", ".join(f"--{name.replace('name', 'config').replace('_', '-')}" for name in data)
            raise InputError(f"{shown} needs --images, a dataset")
        if limit is None:
            return None
        whole_number(limit, "--limit", least=LEAST_IMAGES)
        return leaves(limit)
    return named_images(data)


def named_images(given: Mapping[str, Any]) -> DatasetSettings:
    """Return the images that the options name: the dataset in ``dataset``, or drawn leaves if its name is ``leaves``.

    Raises:
        InputError: a value out of range, or an option of a dataset for drawn leaves.
    """
    from sith_hf.images import LEAVES, DatasetSettings, images_named

    data = dict(given)
    if "data_revision" in data:
        data["revision"] = data.pop("data_revision")
    if "column" in data:
        data["columns"] = {"image": data.pop("column")}
    if data.get("dataset") == LEAVES:
        data |= images_named(LEAVES).model_dump(include={"world", "seed", "pictures"})
        del data["dataset"]
    return DatasetSettings.from_data(data, "the options about images")
