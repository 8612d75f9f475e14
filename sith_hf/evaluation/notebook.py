"""An evaluation as HTML for notebooks, in one line, and as rows for pandas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from sith_hf.core.escaping import sanitize
from sith_hf.core.html import block, faint, html_table
from sith_hf.evaluation.task_result import MetricResult, TaskResult
from sith_hf.images import BASE, EDITED

# Rows of a task, tasks, and columns of variants.
_ROWS, _TASKS, _VARIANTS = 16, 5, 6


def in_one_line(tasks: Sequence[TaskResult], variants: Sequence[str]) -> str:
    """Return the headline of each task, such as ``birds: worst group 0.312 -> 0.688``, cut at 400 characters."""
    ends = [name for name in (variants[0], variants[-1] if EDITED not in variants else EDITED) if name]
    parts = []
    for task in tasks:
        for item in task.headlines[:3]:
            values = " -> ".join(f"{item.values[name]:.3f}" for name in dict.fromkeys(ends) if name in item.values)
            parts.append(f"{task.name}: {item.title} {values}")
    return sanitize(f"{', '.join(variants)}; {'; '.join(parts)}", 400)


def tasks_html(title: str, tasks: Sequence[TaskResult], variants: Sequence[str]) -> str:
    """Return a table for each task: its metrics, headlines first, for each variant, and edited - base."""
    more = faint(f"and {len(tasks) - _TASKS} more tasks") if len(tasks) > _TASKS else None
    return block(title, *(_task_html(task, variants) for task in tasks[:_TASKS]), more)


def _task_html(task: TaskResult, variants: Sequence[str]) -> Markup:
    shown = variants[:_VARIANTS]
    first = list(task.headlines)
    metrics = [*first, *(item for item in task.metrics if item not in first)]
    compared = any(_main(item) for item in metrics)
    rows: list[list[object]] = []
    for item in metrics[:_ROWS]:
        rows.append([item.title, *(item.values.get(name, "") for name in shown), *(_change(item) if compared else [])])
    columns = ["metric", *shown, *(["edited - base", "95 % interval"] if compared else [])]
    split = f", {task.split}" if task.split else ""
    skipped = [f"skipped {count}: {reason}" for reason, count in sorted(task.skipped.items())]
    notes = [faint(note) for note in (*skipped, *task.notes)[:4]]
    left_out = len(variants) - len(shown)
    notes += [faint(f"{left_out} more variants: to_pandas() has all")] if left_out else []
    table = html_table(columns, rows, more=len(metrics) - len(rows))
    return block(f"{task.name}: {task.dataset}{split} ({task.images:,} images)", table, *notes)


def _main(item: MetricResult) -> Any:
    return next((d for d in item.differences if (d.of, d.to) == (EDITED, BASE)), None)


def _change(item: MetricResult) -> list[object]:
    found = _main(item)
    if found is None:
        return ["", ""]
    value = Markup("<b>{}</b>").format(f"{found.value:+.3f}") if found.sure else f"{found.value:+.3f}"
    return [value, found.interval]


def value_rows(tasks: Sequence[TaskResult]) -> Iterator[dict[str, Any]]:
    """Yield a row for each value of each metric; the difference is to the base."""
    for task in tasks:
        for item in task.metrics:
            to_base = {d.of: d for d in item.differences if d.to == BASE}
            for variant, value in item.values.items():
                found = to_base.get(variant)
                yield {
                    "task": task.name,
                    "metric": item.metric,
                    "part": item.part,
                    "variant": variant,
                    "value": value,
                    "difference": None if found is None else found.value,
                    "low": None if found is None else found.low,
                    "high": None if found is None else found.high,
                    "samples": item.samples,
                }
