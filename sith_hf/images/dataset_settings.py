"""What a dataset of images is called, and what its columns are, as a recipe's YAML holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sith_hf.core.settings import Settings

WorldKind = Literal["groups", "balanced", "faded", "unsafe"]


class Columns(Settings):
    """The names that a dataset gives to what is read from it."""

    image: str = "image"
    """The pictures."""

    label: str = "label"
    """Zero-shot: a class label, class names, or numbers."""

    group: str | tuple[str, ...] | None = None
    """Zero-shot: what groups are made of; several columns are joined by "/"."""

    caption: str = "caption"
    """Retrieval: one text for each image."""

    unsafe_image: str | None = None
    """Retrieval with safe and unsafe pools: both or neither."""

    unsafe_caption: str | None = None
    """The texts of those."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The columns that groups are made of."""
        return () if self.group is None else (self.group,) if isinstance(self.group, str) else self.group

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.unsafe_image is None) != (self.unsafe_caption is None):
            raise ValueError("unsafe_image and unsafe_caption go together: name both columns, or neither")
        return self


class DatasetSettings(Settings):
    """Images with labels or captions: a dataset, or pictures of the drawn world that the embedded model knows."""

    dataset: str | None = None
    """A Hub id; a folder of images in one folder a class, of Parquet files, or of save_to_disk; or a Parquet file."""

    name: str | None = None
    """The configuration of a dataset that has several."""

    split: str | None = None
    """Needed where the dataset has more than one."""

    revision: str | None = None
    """Branch, tag or commit on the Hub."""

    streaming: bool = False
    """Read rows as they come, without a copy on disk."""

    world: WorldKind | None = None
    """Kind of pictures of the drawn world, instead of a dataset."""

    seed: int | None = None
    """Of the drawn pictures."""

    pictures: Annotated[int, Field(ge=1)] | None = None
    """How many to draw, in each group where there are groups."""

    columns: Columns = Columns()
    """What the columns are called."""

    where: Mapping[str, str | int | tuple[str | int, ...]] = {}
    """Column to value, or to several: only such rows are taken."""

    limit: Annotated[int, Field(ge=1)] | None = None
    """The first so many rows of those."""

    sha256: str | None = None
    """The fingerprint of pictures, labels and captions; other data are refused. Filled in by a run."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.dataset is None) == (self.world is None):
            raise ValueError("name one source: dataset, or world")
        if self.world is None and (self.seed is not None or self.pictures is not None):
            raise ValueError("seed and pictures belong to world")
        if self.world is not None and (self.seed is None or self.pictures is None):
            raise ValueError("a drawn world needs seed and pictures")
        if self.world is not None and (self.name or self.split or self.revision or self.streaming):
            raise ValueError("name, split, revision and streaming belong to dataset")
        return self
