"""What a search measures in the edited model: metrics of tasks, a change of concepts, and the estimated drift."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from sith_hf.evaluation import HeldTask
from sith_hf.gains import VectorKey
from sith_hf.images import EDITED, HeldRows
from sith_hf.tuning.smooth import smooth_metric

Images = Mapping[str, Tensor]
"""Image column to embeddings ``[N, P]``."""


class Objective(Protocol):
    """A figure of an edited model."""

    @property
    def title(self) -> str:
        """Its name in tables."""

    @property
    def lowest(self) -> bool:
        """Whether a low value is wanted."""

    @property
    def base(self) -> float:
        """Its value without an edit."""

    @property
    def held(self) -> HeldRows | None:
        """The rows that it looks at; None for one that is known from the gains."""

    def value(self, images: Images, gains: Mapping[VectorKey, float]) -> float:
        """Return the figure of an edit, from the embeddings of the rows by the edited model, and its gains."""

    def smooth(self, images: Images) -> Tensor | None:
        """Return a differentiable stand-in, higher is better; None if there is none."""


@dataclass(frozen=True)
class TaskFigure:
    """A metric of a task on validation data.

    Raises:
        InputError: the task has no such metric.
    """

    task: HeldTask
    metric: str
    part: str | None
    lowest: bool
    title: str = field(init=False)
    base: float = field(init=False)
    _stand_in: Callable[[Images], Tensor] | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        found = self.task.base.metric(self.metric, self.part)
        object.__setattr__(self, "title", f"{self.task.name}: {found.title}")
        object.__setattr__(self, "base", found.values["base"])
        object.__setattr__(self, "_stand_in", smooth_metric(self.task, self.metric, self.part))

    @property
    def held(self) -> HeldRows:
        """The rows of the task."""
        return self.task.held

    def value(self, images: Images, gains: Mapping[VectorKey, float]) -> float:
        """Return the metric of the edited model."""
        return self.task.measure(images).metric(self.metric, self.part).values[EDITED]

    def smooth(self, images: Images) -> Tensor | None:
        """Return the stand-in of the metric; None for one without."""
        if self._stand_in is None:
            return None
        found = self._stand_in(images)
        return -found if self.lowest else found


@dataclass(frozen=True)
class ConceptFigure:
    """How much of the variation of concepts' similarity over images an edit removes, from 0 to 1; without labels.

    Each similarity is to a text, relative to the mean over the images. With ``amplify`` it is how much is added.

    Attributes:
        rows: the images.
        texts: ``[C, P]``, unit embeddings of the concepts.
        amplify: whether the edit is to strengthen the concepts.
    """

    rows: HeldRows
    column: str
    texts: Tensor
    title: str
    amplify: bool = False
    lowest: bool = False
    base: float = 0.0

    @property
    def held(self) -> HeldRows:
        """The images."""
        return self.rows

    def value(self, images: Images, gains: Mapping[VectorKey, float]) -> float:
        """Return the share of the variation that the edit removes, or adds."""
        found = self.smooth(images)
        return round(float(found), 6)

    def smooth(self, images: Images) -> Tensor:
        """Return the same, differentiable."""
        before = torch.from_numpy(self.rows.rows.images[self.column][0])
        texts = self.texts.to(images[self.column].device)
        were, are = (_variation(own.to(texts.device) @ texts.T) for own in (before, images[self.column]))
        return (are / were - 1) if self.amplify else (1 - are / were)


@dataclass(frozen=True)
class DriftFigure:
    """The drift that is estimated from the weights (:mod:`sith_hf.gains.drift`)."""

    drift: Mapping[VectorKey, float] = field(repr=False)
    title: str = "estimated drift"
    lowest: bool = True
    base: float = 0.0
    held: None = None

    def value(self, images: Images, gains: Mapping[VectorKey, float]) -> float:
        """Return the estimated drift."""
        return sum((1 - gain) ** 2 * self.drift[key] for key, gain in sorted(gains.items()))

    def smooth(self, images: Images) -> None:
        """Return None: the ranking adds the drift of each vector itself."""
        return


def _variation(similarity: Tensor) -> Tensor:
    """Return the mean square of similarities ``[N, C]`` around the mean of each concept."""
    return (similarity - similarity.mean(dim=0)).square().mean()
