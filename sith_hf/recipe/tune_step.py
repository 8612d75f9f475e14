"""The part ``tune`` of a recipe: what ``sith-hf tune`` searches, for what, and on which data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sith_hf.core.settings import NumberChoice, Settings
from sith_hf.images import DatasetSettings

# Drawn leaves, for a target of concepts.
LEAVES = DatasetSettings(world="leaves", seed=0, pictures=1000)


class TuneTarget(Settings):
    """What a tuned edit is for: a metric of a task of ``evaluate``, or a change of concepts, without data."""

    task: str | None = None
    """The name of a task of evaluate."""
    metric: str = "accuracy"
    """Its metric, such as "worst group" or "recall at 1"."""
    part: str | None = None
    """The part of the metric, such as "group boat/road" or "unsafe image to all texts"; the whole when null."""
    goal: Literal["highest", "lowest"] = "highest"
    """Whether a high or a low value is wanted."""
    concepts: tuple[str, ...] | None = None
    """Instead of a task: concepts whose similarity to images the edit removes, or with gains above 1 amplifies."""
    images: DatasetSettings = LEAVES
    """The images for concepts, without labels; drawn noise of shapes ("dead leaves") by default."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.task is None) == (not self.concepts):
            raise ValueError("name one target: a task of evaluate with its metric, or concepts")
        return self


class TuneCollateral(Settings):
    """What a tuned edit must not cost: a metric of a task of ``evaluate``, or the drift of embeddings."""

    task: str | None = None
    """The name of a task of evaluate; the drift estimated from the weights alone when null."""
    metric: str = "accuracy"
    """Its metric, such as "accuracy", "agreement of predictions" or "drift, mean"."""
    part: str | None = None
    """The part of the metric; the whole when null."""
    goal: Literal["highest", "lowest"] | None = None
    """Whether a high or a low value is wanted; when null low for a drift, and high for other metrics."""
    limit: Annotated[float, Field(ge=0)] = 0.1
    """The largest loss against the base that the chosen edit may have."""

    @property
    def lowest(self) -> bool:
        """Whether a low value is wanted."""
        return self.metric.startswith("drift") if self.goal is None else self.goal == "lowest"


class TuneStep(Settings):
    """A search for the best trade of a target against collateral (``sith-hf tune``); ``sith-hf run`` ignores it."""

    target: TuneTarget
    """What the edit is for."""
    collateral: TuneCollateral = TuneCollateral()
    """What it must not cost."""
    validation: Mapping[str, DatasetSettings] = {}
    """The name of each task above to data that no task of evaluate reports; columns and where are those of the task
    unless given."""
    layers: Annotated[tuple[NumberChoice, ...], Field(min_length=1)] | None = None
    """Sets of layers to choose from; when null the last one, two, ... of the layers of the edits."""
    thresholds: tuple[float, float] = (0.0, 0.5)
    """The range of the share of the topic, 0 to 1, that a vector needs; a judge's scores of 1 to 5 count as 0 to 1.
    With 0, every vector of the layers may be chosen."""
    strengths: tuple[float, float] = (0.5, 2.0)
    """The range of the strength of the edits: 0 is no edit, 1 the edit itself, 2 moves gains twice as far."""
    max_vectors: Annotated[int, Field(ge=1)] = 25
    """The largest number of vectors."""
    trials: Annotated[int, Field(ge=1)] = 64
    """The number of trials."""
    sampler: Literal["tpe", "nsga-ii"] = "tpe"
    """Optuna's sampler: tpe, or the genetic algorithm nsga-ii."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """The seed of the search."""
    batch_size: Annotated[int, Field(ge=1)] = 100
    """Images at a time."""

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        low, high = self.thresholds
        if not 0 <= low <= high <= 1:
            raise ValueError(f"thresholds must be two shares, 0 <= low <= high <= 1; got {low} and {high}")
        low, high = self.strengths
        if not 0 < low <= high:
            raise ValueError(f"strengths must be two numbers, 0 < low <= high; got {low} and {high}")
        if self.layers is not None and not all(self.layers):
            raise ValueError("each set of layers needs at least one layer")
        return self
