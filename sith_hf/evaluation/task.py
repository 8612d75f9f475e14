"""What all kinds of tasks share: the embeddings they start from, and how a result is put together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sith_hf.evaluation.bootstrap import compared, stratum_means
from sith_hf.evaluation.plan import Collateral, Retrieval, ZeroShot
from sith_hf.evaluation.result import MetricResult, TaskResult
from sith_hf.images import EmbeddedRows, ImageDataset
from sith_hf.towers import LoadedModel

AnyTask = ZeroShot | Retrieval | Collateral
TaskT = TypeVar("TaskT", ZeroShot, Retrieval, Collateral)


@dataclass(frozen=True, eq=False)
class TaskData:
    """The rows of one pass over a dataset, and the settings of the bootstrap.

    Attributes:
        rows: the embeddings of C variants, and the other columns.
        variants: C names.
        text: the CLIPModel whose text tower encodes classes and captions; None where no task needs one.
        resamples, seed: of the bootstrap.
        progress: show bars on stderr.
    """

    rows: EmbeddedRows
    variants: tuple[str, ...]
    text: LoadedModel | None
    resamples: int
    seed: int
    progress: bool

    def resampled(self, outcomes: ArrayLike, strata: ArrayLike | None = None, *, salt: str) -> NDArray[np.float64]:
        """Bootstrap means ``[B, G, C]``: :func:`~sith_hf.evaluation.bootstrap.stratum_means`."""
        return stratum_means(outcomes, strata, resamples=self.resamples, seed=self.seed, salt=salt)

    def metric(
        self, name: str, part: str | None, values: Sequence[float], resampled: NDArray[np.float64] | None, samples: int
    ) -> MetricResult:
        """One metric of all variants: :func:`~sith_hf.evaluation.bootstrap.compared`."""
        return compared(name, part, self.variants, np.array(values), resampled, samples)

    def result(
        self,
        task: AnyTask,
        metrics: Sequence[MetricResult],
        items: Mapping[str, NDArray[Any]],
        *,
        notes: Sequence[str] = (),
        images: int | None = None,
        skipped: Mapping[str, int] | None = None,
    ) -> TaskResult:
        """The result of a task; ``images`` and ``skipped`` are those of the rows when None."""
        return TaskResult(
            name=task.name,
            kind=task.kind,
            dataset=self.rows.source.title,
            split=self.rows.source.split,
            images=len(self.rows) if images is None else images,
            skipped=self.rows.skipped if skipped is None else skipped,
            notes=tuple(notes),
            metrics=tuple(metrics),
            items=items,
        )


class TaskRunner(ABC, Generic[TaskT]):
    """One kind of task on one opened dataset. A new kind is a subclass, listed in :mod:`sith_hf.evaluation.run`.

    Attributes:
        columns: what the task reads of every row besides images.
    """

    columns: tuple[str, ...] = ()

    def __init__(self, task: TaskT, source: ImageDataset) -> None:
        self.task: TaskT = task
        self.source = source

    @classmethod
    def image_columns(cls, task: TaskT) -> tuple[str, ...]:
        """The columns of images that the task embeds."""
        return (task.data.columns.image,)

    def check(self, row: Mapping[str, Any], number: int) -> None:  # most kinds take any row
        """Raise InputError unless a row fits the task."""

    @abstractmethod
    def run(self, data: TaskData) -> TaskResult:
        """Compute the metrics from the embedded rows."""
