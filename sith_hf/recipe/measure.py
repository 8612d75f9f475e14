"""Measure an edit beside its base and its baselines, and for several strengths of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sith_hf.core.tables import plain
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.edits.spec import EditSpec
from sith_hf.errors import InputError
from sith_hf.evaluation.plan import Task, ZeroShot
from sith_hf.evaluation.result import Evaluation
from sith_hf.evaluation.run import evaluate
from sith_hf.evaluation.sweep import Sweep, strengths, sweep
from sith_hf.gains.baselines import with_baselines
from sith_hf.gains.gains import Gains
from sith_hf.images.variants import BASE, contenders, text_of
from sith_hf.recipe.inputs import with_place
from sith_hf.recipe.model import Evaluation as Plan

WORST, AVERAGE = "worst group", "average over groups"


def line_up(plan: Plan, editor: SithEditor, decomposition: Decomposition, gains: Gains) -> dict[str, EditSpec | None]:
    """The contenders of a plan by name: base, edited, and the baselines that it asks for."""
    asked = plan.baselines
    seeds = range(asked.seed, asked.seed + asked.random)
    return {BASE: None} | with_baselines(editor.tower, decomposition, gains, seeds=seeds, whole=asked.heads)


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured.

    Attributes:
        evaluation: base, edited and baselines on every task.
        sweep: worst group and average for several strengths; None where the recipe asks for no sweep.
    """

    evaluation: Evaluation
    sweep: Sweep | None

    def to_json(self) -> dict[str, Any]:
        """As plain data: the evaluation, with the sweep beside its tasks."""
        return self.evaluation.to_json() | ({} if self.sweep is None else {"sweep": self.sweep.to_json()})


def measure(
    plan: Plan,
    editor: SithEditor,
    decomposition: Decomposition,
    gains: Gains,
    folder: Path,
    *,
    progress: bool = False,
) -> Measured:
    """Evaluate an edit as a plan says.

    Args:
        plan: the recipe's part ``evaluate``.
        editor: of the base.
        decomposition, gains: the explained vectors, and what is edited of them.
        folder: where relative paths of datasets start.
        progress: show bars on stderr.

    Raises:
        InputError: data that cannot be used, an edit without baselines, or a sweep without a task that has groups.
    """
    tasks = tuple(with_place(task, folder) for task in plan.tasks)
    grouped = None if plan.sweep is None else _grouped(tasks, plan.sweep.task)
    text = text_of(editor)
    specs = line_up(plan, editor, decomposition, gains)
    options = plan.model_dump(include={"batch_size", "precision", "resamples", "seed"})
    found = evaluate(contenders(editor, specs), tasks, text=text, progress=progress, **options)
    if plan.sweep is None or grouped is None:
        return Measured(found, None)

    def worst_and_average(named: Mapping[str, EditSpec | None]) -> dict[str, tuple[float, float]]:
        each = evaluate(contenders(editor, named), [grouped], text=text, progress=progress, **options)
        metrics = [each.task(grouped.name).measure(metric).values for metric in (WORST, AVERAGE)]
        return {name: (metrics[0][name], metrics[1][name]) for name in named}

    edits = {name: spec for name, spec in specs.items() if spec is not None}
    return Measured(found, sweep(strengths(edits, plan.sweep.strengths), worst_and_average))


def _grouped(tasks: Sequence[Task], wanted: str | None) -> Task:
    """The task whose groups a sweep is over; told before anything is measured."""
    for task in tasks:
        if wanted in (None, task.name) and isinstance(task, ZeroShot) and task.data.columns.group is not None:
            return task
    what = "no task" if wanted is None else f"no task {plain(wanted)!r}"
    raise InputError(
        f"evaluate.sweep: {what} is measured in groups; name a group column of a zero-shot task (data.columns.group), "
        "or write sweep: null"
    )
