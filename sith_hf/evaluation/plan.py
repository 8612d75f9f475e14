"""What to evaluate on what, as a recipe's YAML holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from sith_hf.core.settings import Settings

WorldKind = Literal["groups", "balanced", "faded", "unsafe"]
# YAML reads a bare no as false.
Precision = Annotated[Literal["no", "bf16", "fp16"], BeforeValidator(lambda value: "no" if value is False else value)]

TEMPLATES: tuple[str, ...] = ("a photo of a {}",)


def _template(text: str) -> str:
    if text.count("{}") != 1:
        raise ValueError(
            f'a prompt template has one place {{}} for the class, such as "a photo of a {{}}"; got {text!r}'
        )
    return text


def _classes(classes: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if twice:
        raise ValueError(f"the class {', '.join(twice)} occurs more than once")
    if len(classes) < 2:
        raise ValueError("a classification needs at least two classes")
    if not all(name.strip() for name in classes):
        raise ValueError("a class name is blank")
    return classes


def _named(classes: Mapping[str, str]) -> Mapping[str, str]:
    _classes(tuple(classes.values()))
    return classes


Template = Annotated[str, AfterValidator(_template)]
Templates = Annotated[tuple[Template, ...], Field(min_length=1)]
ClassList = Annotated[tuple[str, ...], AfterValidator(_classes)]
ClassMap = Annotated[Mapping[str, str], AfterValidator(_named)]


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


class Data(Settings):
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


class ZeroShot(Settings):
    """Zero-shot classification: accuracy, per class, per group, over groups, and of the worst group."""

    kind: Literal["zero-shot"] = "zero-shot"
    """Zero-shot classification."""

    name: str = "zero-shot"
    """What results are called."""

    data: Data
    """The images."""

    classes: ClassList | ClassMap | None = None
    """Names, or label in the data to name; the label column's own names when absent."""

    templates: Templates = TEMPLATES
    """Prompts with {} for the class; a class is the mean of their embeddings."""


class Retrieval(Settings):
    """Recall of captions by images and of images by captions, with safe and unsafe pools where there are such."""

    kind: Literal["retrieval"] = "retrieval"
    """Retrieval."""

    name: str = "retrieval"
    """What results are called."""

    data: Data
    """The images and captions."""

    ks: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 5, 10)
    """Recall at these."""


class Collateral(Settings):
    """What an edit was not meant to change: how far embeddings move, and how many predictions stay."""

    kind: Literal["collateral"] = "collateral"
    """Collateral."""

    name: str = "collateral"
    """What results are called."""

    data: Data
    """The images."""

    classes: ClassList | None = None
    """Classes that the edit is not about; no agreement of predictions is measured when absent."""

    templates: Templates = TEMPLATES
    """Prompts with {} for the class."""


def _kind(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return f"tag:{kind}"


Task = Annotated[
    Annotated[ZeroShot, Tag("tag:zero-shot")]
    | Annotated[Retrieval, Tag("tag:retrieval")]
    | Annotated[Collateral, Tag("tag:collateral")],
    Discriminator(
        _kind,
        custom_error_type="unknown_kind",
        custom_error_message="kind is one of zero-shot, retrieval and collateral",
    ),
]


class Plan(Settings):
    """An evaluation: its tasks, and how they are run."""

    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    """What is measured: each has a name of its own."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Images at a time."""

    precision: Precision = "no"
    """Mixed precision: no, bf16 or fp16."""

    resamples: Annotated[int, Field(ge=100, le=100_000)] = 2000
    """Of the bootstrap."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Of the bootstrap."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError("two tasks have one name: give each a name of its own")
        return self
