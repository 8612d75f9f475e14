"""The settings that name a dataset of images, its rows and its columns, as YAML holds them under ``data``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sith_hf.core.settings import Settings

WorldKind = Literal["groups", "balanced", "faded", "unsafe", "leaves"]


class Columns(Settings):
    """The names of a dataset's columns."""

    image: str = "image"
    """The images."""

    label: str = "label"
    """Zero-shot: a class label, a class name, or a number; rows without one, and of the label -1, are left out."""

    group: str | tuple[str, ...] | None = None
    """Zero-shot: the group; several columns are joined by "/"."""

    caption: str = "caption"
    """Retrieval: a text for each image, or a list of texts."""

    unsafe_image: str | None = None
    """Retrieval with safe and unsafe pools: the unsafe images; needs unsafe_caption."""

    unsafe_caption: str | None = None
    """The captions of the unsafe images."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The columns of the group."""
        return () if self.group is None else (self.group,) if isinstance(self.group, str) else self.group

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.unsafe_image is None) != (self.unsafe_caption is None):
            raise ValueError("unsafe_image and unsafe_caption go together; name both columns, or neither")
        return self


class DatasetSettings(Settings):
    """Images with labels or captions: a dataset, or pictures of the drawn world of the embedded checkpoint."""

    dataset: str | None = None
    """A folder with a folder of images for each class, of Parquet files, or of save_to_disk; a file; or a Hub id."""

    name: str | None = None
    """The configuration, for a dataset with several."""

    split: str | None = None
    """The split, for a dataset with several."""

    revision: str | None = None
    """Branch, tag or commit on the Hub."""

    streaming: bool = False
    """Read rows as a stream, without a copy on disk."""

    world: WorldKind | None = None
    """A kind of pictures of the drawn world, instead of a dataset."""

    seed: int | None = None
    """Seed of the drawn pictures."""

    pictures: Annotated[int, Field(ge=1)] | None = None
    """Number of drawn pictures, per group for a world with groups."""

    columns: Columns = Columns()
    """The names of the columns."""

    where: Mapping[str, str | int | tuple[str | int, ...]] = {}
    """Column to one or several values: use only rows with these values."""

    limit: Annotated[int, Field(ge=1)] | None = None
    """Use only the first N rows."""

    rows: Annotated[int, Field(ge=1)] | None = None
    """The number of rows that where and limit leave, such as the size of a published test split; others are refused."""

    sha256: str | None = None
    """The fingerprint of images, labels and captions; other data are refused. A run fills it in."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.dataset is None) == (self.world is None):
            raise ValueError("name one source: dataset or world")
        if self.world is None and (self.seed is not None or self.pictures is not None):
            raise ValueError("seed and pictures belong to world")
        if self.world is not None and (self.seed is None or self.pictures is None):
            raise ValueError("a drawn world needs seed and pictures")
        if self.world is not None and (self.name or self.split or self.revision or self.streaming):
            raise ValueError("name, split, revision and streaming belong to dataset")
        return self
