"""Evaluate an edit, its base and its baselines, and several strengths of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sith_hf.core.escaping import sanitize
from sith_hf.edits import AnySpec, EditSpec, combined, make_spec
from sith_hf.errors import InputError
from sith_hf.evaluation import Evaluation, Sweep, Task, ZeroShot, evaluate, strengths, sweep
from sith_hf.files import ResumableJob
from sith_hf.gains import with_baselines
from sith_hf.images import BASE, EDITED, PARTS, model_variants, text_model_of
from sith_hf.recipe.inputs import with_full_path
from sith_hf.recipe.recipe import EvaluationStep
from sith_hf.recipe.tower_run import TowerRun

WORST, AVERAGE = "worst group", "average over groups"


def measure_edit(
    plan: EvaluationStep,
    towers: Sequence[TowerRun],
    folder: Path,
    *,
    job: ResumableJob | None = None,
    progress: bool = False,
) -> tuple[Evaluation, Sweep | None]:
    """Evaluate base, edited and baselines on every task, and worst group and average over strengths.

    With edits of both towers, the edit of each tower alone is one more variant (``sith_hf.images.PARTS``), and a
    baseline has its vectors in both.

    Args:
        plan: the part ``evaluate`` of a recipe.
        towers: the edit of each tower.
        folder: the folder that relative paths of datasets start from.
        job: stores finished parts of the embeddings and shares parts between processes, all of which return the result.
        progress: show bars on stderr.

    Returns:
        The evaluation, and the sweep; None without a sweep in the plan.

    Raises:
        InputError: unusable data, an edit without possible baselines, or a sweep without a task that has groups.
    """
    tasks = tuple(with_full_path(task, folder) for task in plan.tasks)
    grouped = None if plan.sweep is None else _grouped(tasks, plan.sweep.task)
    editor = towers[0].editor
    text = text_model_of(editor)
    edits = _edits(plan, towers)
    variants: dict[str, AnySpec | None] = {BASE: None, **edits}
    options = {"text": text, "job": job, "progress": progress, **plan.options}
    found = evaluate(model_variants(editor, variants), tasks, **options)
    if plan.sweep is None or grouped is None:
        return found, None

    def worst_and_average(named: Mapping[str, AnySpec | None]) -> dict[str, tuple[float, float]]:
        each = evaluate(model_variants(editor, named), [grouped], step="sweep", **options)
        metrics = [each.task(grouped.name).metric(metric).values for metric in (WORST, AVERAGE)]
        return {name: (metrics[0][name], metrics[1][name]) for name in named}

    return found, sweep(strengths(edits, plan.sweep.strengths), worst_and_average)


def _edits(plan: EvaluationStep, towers: Sequence[TowerRun]) -> dict[str, AnySpec]:
    """Return the edit, its parts if it is of two towers, and the baselines, by name."""
    seeds = range(plan.baselines.seed, plan.baselines.seed + plan.baselines.random)
    specs: dict[str, list[EditSpec]] = {}
    for run in towers:
        chosen = with_baselines(run.decomposition, run.chosen.gains, seeds=seeds, whole=plan.baselines.heads)
        for name, gains in chosen.items():
            specs.setdefault(name, []).append(make_spec(run.editor.tower, run.decomposition, gains))
    edits: dict[str, AnySpec] = {EDITED: combined(*specs.pop(EDITED))}
    if len(towers) > 1:
        edits |= {PARTS[run.decomposition.tower]: run.chosen.spec for run in towers}
    return edits | {name: combined(*parts) for name, parts in specs.items()}


def _grouped(tasks: Sequence[Task], wanted: str | None) -> Task:
    """Return the task for a sweep, before any evaluation."""
    for task in tasks:
        if wanted in (None, task.name) and isinstance(task, ZeroShot) and task.data.columns.group is not None:
            return task
    what = "no task" if wanted is None else f"no task {sanitize(wanted)!r}"
    raise InputError(
        f"evaluate.sweep: {what} has groups; name a group column of a zero-shot task (data.columns.group), or write "
        "sweep: null"
    )
