"""``Evaluation``: the results of tasks, as data, as a table, and as entries of a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from sith_hf.cards import MOST_BASELINES, collapsed_name
from sith_hf.core.escaping import sanitize
from sith_hf.core.formatting import signed
from sith_hf.core.reading import read_text
from sith_hf.core.tables import table
from sith_hf.core.validation import did_you_mean
from sith_hf.errors import ArtifactError, InputError
from sith_hf.evaluation.notebook import in_one_line, tasks_html, value_rows
from sith_hf.evaluation.task_result import Difference, TaskResult
from sith_hf.files import write_whole
from sith_hf.images import BASE, EDITED, PARTS

FORMAT, VERSION = "sith-hf/evaluation", 1

# With more variants than this, the table for a terminal has all differences below the values.
BESIDE = 6

# With more groups than this, a card shows only the worst group and the mean.
CARD_GROUPS = 12


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

    def __repr__(self) -> str:
        return f"Evaluation({in_one_line(self.tasks, self.variants)})"

    def _repr_html_(self) -> str:
        return tasks_html("Evaluation", self.tasks, self.variants)

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` with one row for each value.

        | column | meaning |
        |---|---|
        | `task`, `metric`, `part` | what was measured, such as accuracy of a class; `part` is None for all items |
        | `variant` | base, edited, ... |
        | `value` | a fraction, 0 to 1 (a drift: 1 - cosine, 0 to 2) |
        | `difference`, `low`, `high` | to the base, with the 95 % interval; NaN for the base, and where not computed |
        | `samples` | the number of items |
        """
        import pandas

        columns = ["task", "metric", "part", "variant", "value", "difference", "low", "high", "samples"]
        frame = pandas.DataFrame(value_rows(self.tasks), columns=columns)
        return frame.astype(dict.fromkeys(["value", "difference", "low", "high"], "float64"))

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
                    shown = [signed(d.value), d.interval]
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
        """Return headlines and a few groups of base, edited and baselines, in fractions, for a card.

        They have the form of :class:`sith_hf.cards.measured.Results`; random draws are there as their mean.

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
                if baselines := _baselines(item.values):
                    entry["baselines"] = baselines
                for d in item.differences:
                    if (d.of, d.to) == ("edited", "base") and d.low is not None and d.high is not None:
                        entry["interval"] = [d.low, d.high]
                found["collateral" if task.kind == "collateral" else "results"].append(entry)
        return found


def _baselines(values: Mapping[str, float]) -> dict[str, float]:
    """Return the values of the edits to compare with; the mean for several draws of random vectors."""
    found: dict[str, list[float]] = {}
    for name in (name for name in values if name not in (BASE, EDITED, *PARTS.values())):
        found.setdefault(collapsed_name(name), []).append(values[name])
    return {name: round(sum(each) / len(each), 6) for name, each in list(found.items())[:MOST_BASELINES]}


@cache
def _adapter() -> TypeAdapter[Evaluation]:
    """Return the converter from and to JSON; the keys are those of the fields, or their aliases."""
    return TypeAdapter(Evaluation)
