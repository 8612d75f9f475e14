"""What to evaluate on what, as a recipe's YAML holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, Tag, model_validator

from sith_hf.core.settings import Settings, by_key
from sith_hf.images import Data

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


Task = Annotated[
    Annotated[ZeroShot, Tag("tag:zero-shot")]
    | Annotated[Retrieval, Tag("tag:retrieval")]
    | Annotated[Collateral, Tag("tag:collateral")],
    by_key("kind", ("zero-shot", "retrieval", "collateral")),
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
