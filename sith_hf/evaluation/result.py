"""``Evaluation``: the results of tasks, as data, as a table, and as entries of a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from sith_hf.core.escaping import sanitize
from sith_hf.core.reading import read_text
from sith_hf.core.tables import table
from sith_hf.core.validation import did_you_mean
from sith_hf.errors import ArtifactError, InputError
from sith_hf.files import write_whole
from sith_hf.images import PARTS

FORMAT, VERSION = "sith-hf/evaluation", 1

# With more variants than this, the table for a terminal has all differences below the values.
BESIDE = 6

# With more groups than this, a card shows only the worst group and the mean.
CARD_GROUPS = 12


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
        return "-" if self.low is None or self.high is None else f"[{self.low:+.3f}, {self.high:+.3f}]"


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


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Variants side by side on the same data. JSON keeps everything but the items of tasks.

    Attributes:
        variants: names, in order.
        settings: precision, resamples and seed of the bootstrap, and the text model.
        tasks: the results.
    """

    variants: Annotated[tuple[str, ...], Field(alias="contenders")]
    settings: Mapping[str, Any]
    tasks: tuple[TaskResult, ...]

    def task(self, name: str) -> TaskResult:
        """Return the result of one task. Raises InputError for an unknown name."""
        for task in self.tasks:
            if task.name == name:
                return task
        names = [task.name for task in self.tasks]
        raise InputError(f"no task is called {name!r}{did_you_mean(name, names)}; the tasks are {', '.join(names)}")

    def value(self, task: str, metric: str, variant: str, part: str | None = None) -> float:
        """Return one value. Raises InputError for an unknown task, metric or variant."""
        values = self.task(task).metric(metric, part).values
        if variant not in values:
            raise InputError(
                f"no variant is called {variant!r}{did_you_mean(variant, values)}; the variants are {', '.join(values)}"
            )
        return values[variant]

    def difference(self, task: str, metric: str, of: str, to: str, part: str | None = None) -> Difference:
        """Return one difference with its interval. Raises InputError if it was not computed."""
        for difference in self.task(task).metric(metric, part).differences:
            if (difference.of, difference.to) == (of, to):
                return difference
        raise InputError(f"{task}: the difference of {of} to {to} was not computed")

    def to_json(self) -> dict[str, Any]:
        """Return plain data in a fixed order; values are fractions. Equal evaluations give equal bytes."""
        return {"format": FORMAT, "version": VERSION, **_adapter().dump_python(self, mode="json", by_alias=True)}

    @classmethod
    def from_json(cls, data: Any) -> Evaluation:
        """Read the output of :meth:`to_json`; items are lost. Raises ArtifactError."""
        try:
            if (data["format"], data["version"]) != (FORMAT, VERSION):
                raise ArtifactError(f"expected version {VERSION} of {FORMAT}; evaluate again")
            return _adapter().validate_python(data)
        except (TypeError, KeyError, ValidationError):
            raise ArtifactError("these results of an evaluation are damaged; evaluate again") from None

    def save(self, path: str | Path) -> Path:
        """Write the JSON to a file and return its path. Raises OutputError."""
        content = json.dumps(self.to_json(), indent=2, ensure_ascii=True, allow_nan=False)
        write_whole(Path(path), f"{content}\n".encode())
        return Path(path)

    @classmethod
    def from_file(cls, path: str | Path) -> Evaluation:
        """Read a file of :meth:`save`. Raises ArtifactError."""
        try:
            return cls.from_json(json.loads(read_text(path)))
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from None
        except (OSError, ValueError, RecursionError) as error:
            raise ArtifactError(f"{path} is not a file of results ({type(error).__name__})") from None

    def table(self) -> str:
        """Return values and differences of every task as text for a terminal; :meth:`to_json` has all differences."""
        parts: list[str] = []
        # Beside more variants, the columns of a difference leave no space for names.
        main = ("edited", "base") if "edited" in self.variants and len(self.variants) <= BESIDE else None
        columns = ["metric", *self.variants, *(["edited - base", "95 % interval"] if main else [])]
        for task in self.tasks:
            split = f", {sanitize(task.split)}" if task.split else ""
            parts.append(f"{sanitize(task.name)}: {sanitize(task.dataset)}{split} ({task.images} images)")
            rows: list[list[object]] = []
            rest: list[list[object]] = []
            for item in task.metrics:
                row: list[object] = [item.title, *(item.values[name] for name in self.variants)]
                for d in item.differences:
                    shown = [f"{d.value:+.3f}", d.interval]
                    if (d.of, d.to) == main:
                        row += shown
                    elif item in task.headlines:
                        rest.append([item.title, f"{d.of} - {d.to}", *shown])
                rows.append(row)
            parts.append(table(columns, rows))
            if rest:
                parts.append(table(["metric", "difference", "value", "95 % interval"], rest))
            parts += [f"skipped {count}: {sanitize(reason)}" for reason, count in sorted(task.skipped.items())]
            parts += [f"note: {sanitize(note, 300)}" for note in task.notes]
            parts.append("")
        return "\n".join(parts).rstrip()

    def card(self) -> dict[str, list[dict[str, Any]]]:
        """Return headlines and a few groups of base and edited, as :class:`sith_hf.cards.facts.Results`, in fractions.

        Raises:
            InputError: no variant called ``"edited"``.
        """
        if "edited" not in self.variants:
            raise InputError(f'a card compares "base" and "edited"; the variants are {", ".join(self.variants)}')
        found: dict[str, list[dict[str, Any]]] = {"results": [], "collateral": []}
        for task in self.tasks:
            groups = [item for item in task.metrics if (item.part or "").startswith("group ")]
            for item in [*task.headlines, *(groups if len(groups) <= CARD_GROUPS else [])]:
                entry: dict[str, Any] = {
                    "dataset": task.dataset,
                    "metric": f"{task.name}: {item.title}",
                    "base": item.values["base"],
                    "edited": item.values["edited"],
                    "samples": item.samples,
                }
                if task.split:
                    entry["split"] = task.split
                parts = {name: item.values[name] for name in PARTS.values() if name in item.values}
                if parts:
                    entry["parts"] = parts
                for d in item.differences:
                    if (d.of, d.to) == ("edited", "base") and d.low is not None and d.high is not None:
                        entry["interval"] = [d.low, d.high]
                found["collateral" if task.kind == "collateral" else "results"].append(entry)
        return found


@cache
def _adapter() -> TypeAdapter[Evaluation]:
    """Return the converter from and to JSON; the keys are those of the fields, or their aliases."""
    return TypeAdapter(Evaluation)
