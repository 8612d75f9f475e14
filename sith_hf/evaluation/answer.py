"""The answer of an evaluation in one line for each task: the figure that matters, before and after."""

from __future__ import annotations

from sith_hf.core.escaping import sanitize
from sith_hf.evaluation.result import Evaluation
from sith_hf.evaluation.task_result import MetricResult, TaskResult
from sith_hf.images import BASE, EDITED

WORST = "worst group"


def answers(found: Evaluation) -> list[str]:
    """Return a line for each task, the most important first: ``worst group 31 → 69 % (objects: +38 points, ...)``.

    A task with groups comes before the others, and shows its worst group; the others show their first metric over
    everything.
    """
    names = found.variants
    before = BASE if BASE in names else names[0]
    after = EDITED if EDITED in names else names[-1]
    tasks = [task for task in found.tasks if task.metrics]
    ordered = sorted(tasks, key=lambda task: all(item.metric != WORST for item in task.metrics))
    return [_line(task, before, after) for task in ordered]


def _line(task: TaskResult, before: str, after: str) -> str:
    item = next((item for item in task.metrics if item.metric == WORST), task.headlines[0])
    old, new = item.values[before], item.values[after]
    difference = next(((d.low, d.high) for d in item.differences if (d.of, d.to) == (after, before)), (None, None))
    if _is_fraction(item):
        digits = 0 if abs(new - old) >= 0.02 else 1
        figures = f"{100 * old:.{digits}f} → {100 * new:.{digits}f} %"
        change = f"{_points(new - old, digits)} points"
        ends = [_points(end, digits) for end in difference if end is not None]
    else:
        figures, change = f"{old:.3f} → {new:.3f}", f"{new - old:+.3f}"
        ends = [f"{end:+.3f}" for end in difference if end is not None]
    interval = f", 95 % interval {ends[0]} to {ends[1]}" if len(ends) == 2 else ""
    return f"{sanitize(item.title, 200)} {figures} ({sanitize(task.name, 200)}: {change}{interval})"


def _is_fraction(item: MetricResult) -> bool:
    return "drift" not in item.metric


def _points(value: float, digits: int) -> str:
    found = f"{100 * value:+.{digits}f}"
    return found.replace("-", "+") if float(found) == 0 else found
