"""``TaskResult``: the metrics of one task, each with a value for every variant, and their differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, FiniteFloat

from sith_hf.core.formatting import interval
from sith_hf.core.short_repr import short_repr
from sith_hf.errors import InputError


@short_repr
@dataclass(frozen=True)
class Difference:
    """The difference of a metric between two variants on the same items.

    Attributes:
        of, to: names of the two variants.
        value: the value of ``of`` minus the value of ``to``.
        low, high: the 95 % interval of a paired bootstrap; None if the metric has none.
    """

    of: str
    to: str
    value: FiniteFloat
    low: FiniteFloat | None
    high: FiniteFloat | None

    @property
    def sure(self) -> bool:
        """Return whether the interval excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def interval(self) -> str:
        """The interval as text; ``-`` without one."""
        return "-" if self.low is None or self.high is None else interval((self.low, self.high))


@short_repr
@dataclass(frozen=True)
class MetricResult:
    """One metric of a task.

    Attributes:
        metric: such as ``"accuracy"``, ``"worst group"`` or ``"recall at 1"``.
        part: ``"class boat"``, ``"group boat/road"``, ``"unsafe image to all texts"``; None for all items.
        samples: the number of items.
        values: variant to value, a fraction in [0, 1] (a drift: 1 - cosine, in [0, 2]).
        differences: of every variant to the base, and of ``"edited"`` to every other.
    """

    metric: str
    part: str | None
    samples: int
    values: Mapping[str, FiniteFloat]
    differences: tuple[Difference, ...]

    @property
    def has_interval(self) -> bool:
        """Whether its differences have intervals; a single variant has no difference, and counts as one with them."""
        return not self.differences or any(item.low is not None for item in self.differences)

    @property
    def title(self) -> str:
        """Metric and part as one text."""
        return self.metric if self.part is None else f"{self.metric}, {self.part}"


@short_repr
@dataclass(frozen=True, eq=False)
class TaskResult:
    """The metrics of one task.

    Attributes:
        name, kind: of the task.
        dataset, split: names of the data, without local folders.
        images: the number of images.
        data_sha256: the fingerprint of images, labels and captions, independent of their order.
        skipped: reason to the number of rows left out.
        notes: remarks on the data, such as classes without an image.
        metrics: the metrics.
        items: outcomes of each row of C variants, for your own comparisons; not stored. Zero-shot: ``correct`` bool
            and ``prediction`` int64 ``[C, N]``, ``label`` and ``group`` int64 ``[N]``. Retrieval: for each setting
            ``rank <setting>``, int64 ``[C, N]``, 0 is first. Collateral: ``drift`` float64 ``[C, N]`` and, with
            classes, ``prediction``.
        digests: the sha256 of each row's images; not stored.
    """

    name: str
    kind: str
    dataset: str
    split: str
    images: int
    data_sha256: str | None
    skipped: Mapping[str, int]
    notes: tuple[str, ...]
    metrics: Annotated[tuple[MetricResult, ...], Field(alias="measures")]
    items: Annotated[Mapping[str, Any], Field(exclude=True)] = field(default_factory=dict, repr=False)
    digests: Annotated[tuple[str, ...], Field(exclude=True)] = field(default=(), repr=False)

    @property
    def headlines(self) -> tuple[MetricResult, ...]:
        """The metrics over everything; for retrieval, each setting at its smallest k."""
        whole = tuple(item for item in self.metrics if item.part is None)
        return whole or tuple(item for item in self.metrics if item.metric == self.metrics[0].metric)

    def metric(self, name: str, part: str | None = None) -> MetricResult:
        """Return one metric. Raises InputError if the task has no such metric."""
        for item in self.metrics:
            if (item.metric, item.part) == (name, part):
                return item
        known = ", ".join(dict.fromkeys(item.metric for item in self.metrics))
        raise InputError(f"{self.name} has no {name}{'' if part is None else f' of {part}'}; it has {known}")
