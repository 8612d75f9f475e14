"""``Evaluation``: the results of tasks, as data, as a table, and in the form that a card takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sith_hf.core.escaping import sanitize
from sith_hf.core.tables import table
from sith_hf.errors import ArtifactError, InputError
from sith_hf.files import write_whole

FORMAT, VERSION = "sith-hf/evaluation", 1

# With more groups than this, a card shows only their worst and their mean.
CARD_GROUPS = 12


def rounded(value: float) -> float:
    """Round to six significant digits, as results are stored; further digits are rounding noise."""
    return float(f"{float(value):.6g}")


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
    value: float
    low: float | None
    high: float | None

    @property
    def sure(self) -> bool:
        """Whether the interval excludes zero."""
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
        values: variant to value, a fraction in [0, 1] (a drift: 1 - cosine, in [0, 2]).
        differences: of every variant to the base, and of ``"edited"`` to every other.
        samples: the number of items.
    """

    metric: str
    part: str | None
    values: Mapping[str, float]
    differences: tuple[Difference, ...]
    samples: int

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
        skipped: reason to the number of rows left out.
        notes: remarks on the data, such as classes without an image.
        metrics: the metrics.
        data_sha256: the fingerprint of images, labels and captions, independent of their order.
        items: outcomes of each row of C variants, for your own comparisons; not stored. Zero-shot: ``correct`` bool
            and ``prediction`` int64 ``[C, N]``, ``label`` and ``group`` int64 ``[N]``. Retrieval: for each setting
            ``rank <setting>``, int64 ``[C, N]``, 0 is first. Collateral: ``drift`` float64 ``[C, N]`` and, with
            classes, ``prediction``.
    """

    name: str
    kind: str
    dataset: str
    split: str
    images: int
    skipped: Mapping[str, int]
    notes: tuple[str, ...]
    metrics: tuple[MetricResult, ...]
    data_sha256: str | None = None
    items: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)

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
        tasks: the results.
        settings: precision, resamples and seed of the bootstrap, and the text model.
    """

    variants: tuple[str, ...]
    tasks: tuple[TaskResult, ...]
    settings: Mapping[str, Any]

    def task(self, name: str) -> TaskResult:
        """Return the result of one task. Raises InputError for an unknown name."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise InputError(f"no task is called {name!r}; the tasks are {', '.join(task.name for task in self.tasks)}")

    def value(self, task: str, metric: str, variant: str, part: str | None = None) -> float:
        """Return one value. Raises InputError for an unknown task, metric or variant."""
        values = self.task(task).metric(metric, part).values
        if variant not in values:
            raise InputError(f"no variant is called {variant!r}; the variants are {', '.join(values)}")
        return values[variant]

    def difference(self, task: str, metric: str, of: str, to: str, part: str | None = None) -> Difference:
        """Return one difference with its interval. Raises InputError if it was not computed."""
        for difference in self.task(task).metric(metric, part).differences:
            if (difference.of, difference.to) == (of, to):
                return difference
        raise InputError(f"{task}: the difference of {of} to {to} was not computed")

    def to_json(self) -> dict[str, Any]:
        """Return plain data in a fixed order; values are fractions. Equal evaluations give equal bytes."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "contenders": list(self.variants),
            "settings": {key: self.settings[key] for key in sorted(self.settings)},
            "tasks": [
                {
                    "name": task.name,
                    "kind": task.kind,
                    "dataset": task.dataset,
                    "split": task.split,
                    "images": task.images,
                    "data_sha256": task.data_sha256,
                    "skipped": {key: task.skipped[key] for key in sorted(task.skipped)},
                    "notes": list(task.notes),
                    "measures": [
                        {
                            "metric": item.metric,
                            "part": item.part,
                            "samples": item.samples,
                            "values": dict(item.values),
                            "differences": [vars(difference).copy() for difference in item.differences],
                        }
                        for item in task.metrics
                    ],
                }
                for task in self.tasks
            ],
        }

    @classmethod
    def from_json(cls, data: Any) -> Evaluation:
        """Read the output of :meth:`to_json`; items are lost. Raises ArtifactError."""
        try:
            if (data["format"], data["version"]) != (FORMAT, VERSION):
                raise ArtifactError(f"expected version {VERSION} of {FORMAT}; evaluate again")
            tasks = tuple(_task(task) for task in data["tasks"])
            return cls(tuple(str(name) for name in data["contenders"]), tasks, dict(data["settings"]))
        except ArtifactError:
            raise
        except (TypeError, KeyError, ValueError, AttributeError):
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
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from None
        except (OSError, ValueError, RecursionError) as error:
            raise ArtifactError(f"{path} is not a file of results ({type(error).__name__})") from None

    def table(self) -> str:
        """Return values and differences of every task as text for a terminal; :meth:`to_json` has all differences."""
        parts: list[str] = []
        main = ("edited", "base") if "edited" in self.variants else None
        for task in self.tasks:
            split = f", {sanitize(task.split)}" if task.split else ""
            parts.append(f"{sanitize(task.name)}: {sanitize(task.dataset)}{split} ({task.images} images)")
            rows: list[tuple[object, ...]] = []
            rest: list[tuple[object, ...]] = []
            for item in task.metrics:
                shown: tuple[object, ...] = ()
                for difference in item.differences:
                    if (difference.of, difference.to) == main:
                        shown = (f"{difference.value:+.3f}", difference.interval)
                    elif item in task.headlines:
                        title = f"{difference.of} - {difference.to}"
                        rest.append((item.title, title, f"{difference.value:+.3f}", difference.interval))
                rows.append((item.title, *(item.values[name] for name in self.variants), *shown))
            columns = ["metric", *self.variants]
            parts.append(table([*columns, *(["edited - base", "95 % interval"] if main else [])], rows))
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
                for d in item.differences:
                    if (d.of, d.to) == ("edited", "base") and d.low is not None and d.high is not None:
                        entry["interval"] = [d.low, d.high]
                found["collateral" if task.kind == "collateral" else "results"].append(entry)
        return found


def _task(data: Any) -> TaskResult:
    return TaskResult(
        name=str(data["name"]),
        kind=str(data["kind"]),
        dataset=str(data["dataset"]),
        split=str(data["split"]),
        images=int(data["images"]),
        data_sha256=None if data["data_sha256"] is None else str(data["data_sha256"]),
        skipped={str(key): int(value) for key, value in data["skipped"].items()},
        notes=tuple(str(note) for note in data["notes"]),
        metrics=tuple(_metric(item) for item in data["measures"]),
    )


def _metric(data: Any) -> MetricResult:
    part = data["part"]
    return MetricResult(
        metric=str(data["metric"]),
        part=None if part is None else str(part),
        values={str(name): _finite(value) for name, value in data["values"].items()},
        differences=tuple(
            Difference(
                str(d["of"]),
                str(d["to"]),
                _finite(d["value"]),
                None if d["low"] is None else _finite(d["low"]),
                None if d["high"] is None else _finite(d["high"]),
            )
            for d in data["differences"]
        ),
        samples=int(data["samples"]),
    )


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number
