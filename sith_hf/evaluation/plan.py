"""The settings of an evaluation: tasks, data and bootstrap, as YAML holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, Tag, model_validator

from sith_hf.core.settings import Settings, by_key
from sith_hf.images import DatasetSettings
from sith_hf.towers import fill_template

# YAML reads a bare no as false.
Precision = Annotated[Literal["no", "bf16", "fp16"], BeforeValidator(lambda value: "no" if value is False else value)]

Classes = TypeVar("Classes", tuple[str, ...], Mapping[str, str])

TEMPLATES: tuple[str, ...] = ("a photo of a {}",)


def _template(text: str) -> str:
    fill_template((), text)
    return text


def _classes(classes: Classes) -> Classes:
    names = [*classes.values()] if isinstance(classes, Mapping) else [*classes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the class {', '.join(twice)} occurs more than once")
    if len(names) < 2:
        raise ValueError(f"a classification needs at least two classes; got {len(names)}")
    if not all(name.strip() for name in names):
        raise ValueError("a class name is blank")
    return classes


Template = Annotated[str, AfterValidator(_template)]
Templates = Annotated[tuple[Template, ...], Field(min_length=1)]
ClassList = Annotated[tuple[str, ...], AfterValidator(_classes)]
ClassNames = Annotated[tuple[str, ...] | Mapping[str, str], AfterValidator(_classes)]


class ZeroShot(Settings):
    """Zero-shot classification: accuracy, per class, per group, over groups, and of the worst group."""

    kind: Literal["zero-shot"] = "zero-shot"
    """Zero-shot classification."""

    name: str = "zero-shot"
    """The task's name in results."""

    data: DatasetSettings
    """The images."""

    classes: ClassNames | None = None
    """Class names, or a mapping from labels in the data to names; the label column's names when absent."""

    templates: Templates = TEMPLATES
    """Prompts with {} for the class; the class embedding is their mean."""


class Retrieval(Settings):
    """Recall of captions by images and of images by captions, optionally with safe and unsafe pools."""

    kind: Literal["retrieval"] = "retrieval"
    """Retrieval."""

    name: str = "retrieval"
    """The task's name in results."""

    data: DatasetSettings
    """The images and captions."""

    ks: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 5, 10)
    """Recall is measured at each k."""


class Collateral(Settings):
    """Side effects of an edit: how far embeddings move, and how many predictions stay the same."""

    kind: Literal["collateral"] = "collateral"
    """Collateral."""

    name: str = "collateral"
    """The task's name in results."""

    data: DatasetSettings
    """The images."""

    classes: ClassList | None = None
    """Classes that the edit should not affect; without them, agreement of predictions is not measured."""

    templates: Templates = TEMPLATES
    """Prompts with {} for the class."""


Task = Annotated[
    Annotated[ZeroShot, Tag("tag:zero-shot")]
    | Annotated[Retrieval, Tag("tag:retrieval")]
    | Annotated[Collateral, Tag("tag:collateral")],
    by_key("kind", ("zero-shot", "retrieval", "collateral")),
]


class Plan(Settings):
    """An evaluation: its tasks and their common settings."""

    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    """The tasks, each with its own name."""

    batch_size: Annotated[int, Field(ge=1)] = 32
    """Images at a time."""

    precision: Precision = "no"
    """Mixed precision: no, bf16 or fp16."""

    resamples: Annotated[int, Field(ge=100, le=100_000)] = 2000
    """Number of bootstrap resamples."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the bootstrap."""

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of :func:`sith_hf.evaluation.evaluate`."""
        return self.model_dump(include={"batch_size", "precision", "resamples", "seed"})

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError("two tasks have the same name; give each its own")
        return self
