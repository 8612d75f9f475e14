"""The base of all kinds of tasks: the embedded rows they start from, and the parts of a result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sith_hf.evaluation.bootstrap import interval, stratum_means
from sith_hf.evaluation.plan import Collateral, Retrieval, ZeroShot
from sith_hf.evaluation.task_result import Difference, MetricResult, TaskResult
from sith_hf.images import BASE, EDITED, EmbeddedRows, ImageDataset
from sith_hf.towers import LoadedModel

AnyTask = ZeroShot | Retrieval | Collateral
TaskT = TypeVar("TaskT", ZeroShot, Retrieval, Collateral)


@dataclass(frozen=True, eq=False)
class TaskData:
    """The rows of one pass over a dataset, and the settings of the bootstrap.

    Attributes:
        rows: the embeddings of C variants, and the other columns.
        variants: C names.
        texts: C models whose text towers encode classes and captions, mostly one for all; None without one.
        resamples, seed: of the bootstrap.
        progress: show bars on stderr.
        encoded: texts to their embeddings by the text towers, by ``id``; copies of this data share it.
    """

    rows: EmbeddedRows
    variants: tuple[str, ...]
    texts: tuple[LoadedModel | None, ...]
    resamples: int
    seed: int
    progress: bool
    encoded: dict[Any, dict[int, NDArray[np.float64]]] = field(default_factory=dict, repr=False)

    def resampled(self, outcomes: ArrayLike, strata: ArrayLike | None = None, *, salt: str) -> NDArray[np.float64]:
        """Return bootstrap means ``[B, G, C]``: :func:`~sith_hf.evaluation.bootstrap.stratum_means`."""
        return stratum_means(outcomes, strata, resamples=self.resamples, seed=self.seed, salt=salt)

    def metric(
        self, name: str, part: str | None, values: Iterable[float], resampled: NDArray[np.float64] | None, samples: int
    ) -> MetricResult:
        """Combine a metric of all variants with its differences and their intervals.

        Args:
            name, part, samples: see :class:`~sith_hf.evaluation.task_result.MetricResult`.
            values: C values.
            resampled: ``[B, C]``, the values in each of B resamples; None for a metric without interval.
        """
        names, found = self.variants, list(values)
        pairs = [(name, BASE) for name in names if name != BASE]
        if EDITED in names:
            pairs += [(EDITED, name) for name in names if name not in (BASE, EDITED)]
        differences = []
        for of, to in pairs:
            i, j = names.index(of), names.index(to)
            low = high = None
            if resampled is not None:
                low, high = (_rounded(end) for end in interval(resampled[:, i] - resampled[:, j]))
            differences.append(Difference(of, to, _rounded(found[i] - found[j]), low, high))
        numbers = {name: _rounded(value) for name, value in zip(names, found, strict=True)}
        return MetricResult(name, part, samples, numbers, tuple(differences))


def _rounded(value: float) -> float:
    """Round to six significant digits; further digits are rounding noise."""
    return float(f"{float(value):.6g}")


class TaskRunner(ABC, Generic[TaskT]):
    """One kind of task on one opened dataset. A new kind is a subclass, listed in :mod:`sith_hf.evaluation.run`.

    Attributes:
        columns: the columns to read besides images.
    """

    columns: tuple[str, ...] = ()

    def __init__(self, task: TaskT, source: ImageDataset) -> None:
        self.task: TaskT = task
        self.source = source

    @classmethod
    def image_columns(cls, task: TaskT) -> tuple[str, ...]:
        """Return the columns of images that the task embeds."""
        return (task.data.columns.image,)

    def check(self, row: Mapping[str, Any], number: int) -> None:  # most kinds accept any row
        """Raise InputError unless a row fits the task."""

    @abstractmethod
    def run(self, data: TaskData) -> TaskResult:
        """Compute the metrics from the embedded rows."""

    def result(
        self,
        data: TaskData,
        metrics: Sequence[MetricResult],
        items: Mapping[str, NDArray[Any]],
        notes: Sequence[str] = (),
    ) -> TaskResult:
        """Return the result of the task on all rows."""
        rows = data.rows
        return TaskResult(
            name=self.task.name,
            kind=self.task.kind,
            dataset=self.source.title,
            split=self.source.split,
            images=len(rows),
            data_sha256=rows.sha256(self.columns),
            skipped=rows.skipped,
            notes=tuple(notes),
            metrics=tuple(metrics),
            items=items,
            digests=rows.digests,
        )
