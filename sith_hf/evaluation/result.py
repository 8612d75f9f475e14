"""``Evaluation``: what was measured, as data, as a table, and as a card shows it."""

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

# More groups than this are left out of a card, where only their worst and their mean stand.
CARD_GROUPS = 12


def rounded(value: float) -> float:
    """``value`` with six significant digits, which is what is stored: more are noise of summation."""
    return float(f"{float(value):.6g}")


@dataclass(frozen=True)
class Difference:
    """How much a metric differs between two contenders on the same items.

    Attributes:
        of, to: value of the one minus value of the other.
        value: the difference.
        low, high: the 95 % interval of a paired bootstrap; None where the metric has none.
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


@dataclass(frozen=True)
class Measure:
    """One metric of a task.

    Attributes:
        metric: such as ``"accuracy"``, ``"worst group"`` or ``"recall at 1"``.
        part: what it is of: ``"class boat"``, ``"group boat/road"``, ``"unsafe image to all texts"``; None for all.
        values: contender to value, a fraction in [0, 1] (a drift: 1 - cosine, in [0, 2]).
        differences: of every contender to the base, and of ``"edited"`` to every other.
        samples: how many items it is a mean over.
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
        dataset, split: what the data are called, without local folders.
        images: pictures that were looked at.
        skipped: reason to the number of rows that were left out for it.
        notes: what a reader should know of the data, such as classes without a picture.
        measures: the metrics.
        data_sha256: the fingerprint of the pictures, labels and captions that were looked at, in whatever order.
        items: outcomes of each row, for comparisons of one's own; not stored. Zero-shot: ``correct`` bool and
            ``prediction`` int64 ``[C, N]``, ``label`` and ``group`` int64 ``[N]``. Retrieval: for each setting
            ``rank <setting>``, int64 ``[C, N]``, 0 is first. Collateral: ``drift`` float64 ``[C, N]`` and, with
            classes, ``prediction``. C contenders in order.
    """

    name: str
    kind: str
    dataset: str
    split: str
    images: int
    skipped: Mapping[str, int]
    notes: tuple[str, ...]
    measures: tuple[Measure, ...]
    data_sha256: str | None = None
    items: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)

    @property
    def headlines(self) -> tuple[Measure, ...]:
        """The metrics over everything; for retrieval, each setting at its smallest k."""
        whole = tuple(measure for measure in self.measures if measure.part is None)
        return whole or tuple(measure for measure in self.measures if measure.metric == self.measures[0].metric)

    def measure(self, metric: str, part: str | None = None) -> Measure:
        """One metric. Raises InputError where it was not measured."""
        for measure in self.measures:
            if (measure.metric, measure.part) == (metric, part):
                return measure
        known = ", ".join(dict.fromkeys(m.metric for m in self.measures))
        raise InputError(f"{self.name} has no {metric}{'' if part is None else f' of {part}'}; it has {known}")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Contenders side by side on the same data. All of it but the items of a task survives JSON.

    Attributes:
        variants: their names, in order.
        tasks: the results.
        settings: precision, resamples and seed of the bootstrap, and the text model.
    """

    variants: tuple[str, ...]
    tasks: tuple[TaskResult, ...]
    settings: Mapping[str, Any]

    def task(self, name: str) -> TaskResult:
        """The result of one task. Raises InputError where there is none of that name."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise InputError(f"no task is called {name!r}; there are {', '.join(task.name for task in self.tasks)}")

    def value(self, task: str, metric: str, variant: str, part: str | None = None) -> float:
        """One value. Raises InputError where it was not measured."""
        values = self.task(task).measure(metric, part).values
        if variant not in values:
            raise InputError(f"no contender is called {variant!r}; there are {', '.join(values)}")
        return values[variant]

    def difference(self, task: str, metric: str, of: str, to: str, part: str | None = None) -> Difference:
        """One difference with its interval. Raises InputError where it was not measured."""
        for difference in self.task(task).measure(metric, part).differences:
            if (difference.of, difference.to) == (of, to):
                return difference
        raise InputError(f"{task}: the difference of {of} to {to} was not measured")

    def to_json(self) -> dict[str, Any]:
        """As plain data, in a fixed order; values are fractions, and the same evaluation gives the same bytes."""
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
                            "metric": measure.metric,
                            "part": measure.part,
                            "samples": measure.samples,
                            "values": dict(measure.values),
                            "differences": [vars(difference).copy() for difference in measure.differences],
                        }
                        for measure in task.measures
                    ],
                }
                for task in self.tasks
            ],
        }

    @classmethod
    def from_json(cls, data: Any) -> Evaluation:
        """The inverse of :meth:`to_json`, without items. Raises ArtifactError for anything else."""
        try:
            if (data["format"], data["version"]) != (FORMAT, VERSION):
                raise ArtifactError(f"this is not version {VERSION} of {FORMAT}; evaluate again")
            tasks = tuple(_task(task) for task in data["tasks"])
            return cls(tuple(str(name) for name in data["contenders"]), tasks, dict(data["settings"]))
        except ArtifactError:
            raise
        except (TypeError, KeyError, ValueError, AttributeError):
            raise ArtifactError("the results of this evaluation are damaged; evaluate again") from None

    def save(self, path: str | Path) -> Path:
        """Write the JSON to a file. Returns its path. Raises OutputError."""
        content = json.dumps(self.to_json(), indent=2, ensure_ascii=True, allow_nan=False)
        write_whole(Path(path), f"{content}\n".encode())
        return Path(path)

    @classmethod
    def from_file(cls, path: str | Path) -> Evaluation:
        """Read what :meth:`save` wrote. Raises ArtifactError."""
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from None
        except (OSError, ValueError, RecursionError) as error:
            raise ArtifactError(f"{path} is not a file of results ({type(error).__name__})") from None

    def table(self) -> str:
        """Values and differences of every task as text for a terminal; all differences stand in :meth:`to_json`."""
        parts: list[str] = []
        main = ("edited", "base") if "edited" in self.variants else None
        for task in self.tasks:
            split = f", {sanitize(task.split)}" if task.split else ""
            parts.append(f"{sanitize(task.name)}: {sanitize(task.dataset)}{split} ({task.images} images)")
            rows: list[tuple[object, ...]] = []
            rest: list[tuple[object, ...]] = []
            for measure in task.measures:
                shown: tuple[object, ...] = ()
                for difference in measure.differences:
                    if (difference.of, difference.to) == main:
                        shown = (f"{difference.value:+.3f}", shown_interval(difference))
                    elif measure in task.headlines:
                        title = f"{difference.of} - {difference.to}"
                        rest.append((measure.title, title, f"{difference.value:+.3f}", shown_interval(difference)))
                rows.append((measure.title, *(measure.values[name] for name in self.variants), *shown))
            columns = ["metric", *self.variants]
            parts.append(table([*columns, *(["edited - base", "95 % interval"] if main else [])], rows))
            if rest:
                parts.append(table(["metric", "difference", "value", "95 % interval"], rest))
            parts += [f"skipped {count}: {sanitize(reason)}" for reason, count in sorted(task.skipped.items())]
            parts += [f"note: {sanitize(note, 300)}" for note in task.notes]
            parts.append("")
        return "\n".join(parts).rstrip()

    def card(self) -> dict[str, list[dict[str, Any]]]:
        """As :class:`sith_hf.cards.facts.Results`: the headlines and few groups, base and edited, as fractions.

        Raises:
            InputError: no contender called ``"edited"``.
        """
        if "edited" not in self.variants:
            raise InputError(f'a card compares "base" and "edited"; the variants are {", ".join(self.variants)}')
        found: dict[str, list[dict[str, Any]]] = {"results": [], "collateral": []}
        for task in self.tasks:
            groups = [measure for measure in task.measures if (measure.part or "").startswith("group ")]
            for measure in [*task.headlines, *(groups if len(groups) <= CARD_GROUPS else [])]:
                entry: dict[str, Any] = {
                    "dataset": task.dataset,
                    "metric": f"{task.name}: {measure.title}",
                    "base": measure.values["base"],
                    "edited": measure.values["edited"],
                    "samples": measure.samples,
                }
                if task.split:
                    entry["split"] = task.split
                for d in measure.differences:
                    if (d.of, d.to) == ("edited", "base") and d.low is not None and d.high is not None:
                        entry["interval"] = [d.low, d.high]
                found["collateral" if task.kind == "collateral" else "results"].append(entry)
        return found


def shown_interval(difference: Difference) -> str:
    """The interval of a difference as text."""
    if difference.low is None or difference.high is None:
        return "-"
    return f"[{difference.low:+.3f}, {difference.high:+.3f}]"


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
        measures=tuple(_measure(measure) for measure in data["measures"]),
    )


def _measure(data: Any) -> Measure:
    part = data["part"]
    return Measure(
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
