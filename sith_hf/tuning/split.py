"""Which data a search may look at: never those that the recipe reports."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from math import inf
from pathlib import Path
from typing import NamedTuple

from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError
from sith_hf.evaluation import Task
from sith_hf.images import DatasetSettings
from sith_hf.recipe import Recipe, dataset_path, with_full_path

RULE = "nothing may be tuned on data that are reported"

# Large datasets repeat a few pictures; more of them are the same data.
SHARED = 0.01


def validation_tasks(recipe: Recipe, home: Path) -> dict[str, Task]:
    """Return the tasks that a search measures, by name, on their validation data.

    Args:
        recipe: a recipe with ``tune``.
        home: the folder that relative paths start from.

    Raises:
        InputError: a task that ``evaluate`` lacks, one without validation data, or data that ``evaluate`` reports.
    """
    step = recipe.tune
    if step is None:
        raise InputError("this recipe has no part tune: it names the target, the collateral and the validation data")
    reported = (
        {} if recipe.evaluate is None else {task.name: with_full_path(task, home) for task in recipe.evaluate.tasks}
    )
    known = ", ".join(sanitize(name) for name in reported) or "no task"
    measured = {key: part.task for key, part in (("target", step.target), ("collateral", step.collateral))}
    for key, name in measured.items():
        if name is not None and name not in reported:
            raise InputError(f"tune.{key}.task: {sanitize(name)} is not measured: evaluate has {known}")
    for name in step.validation:
        if name not in measured.values():
            raise InputError(
                f"tune.validation: {sanitize(name)} is neither the task of the target nor that of the collateral; "
                "remove it, or correct its name"
            )
    found: dict[str, Task] = {}
    for name in filter(None, dict.fromkeys(measured.values())):
        if name not in step.validation:
            raise InputError(
                f"tune.validation: {sanitize(name)} has no validation data, and {RULE}: name other data than those of "
                f'evaluate, such as validation: {{"{sanitize(name)}": {{...}}}}'
            )
        found[name] = with_full_path(_on(reported[name], step.validation[name]), home)
        check_other(f"tune.validation.{name}", found[name].data, reported.values())
    return found


def concept_images(recipe: Recipe, home: Path) -> DatasetSettings | None:
    """Return the images that a target of concepts looks at, with a full path; None for another target.

    Raises:
        InputError: images that ``evaluate`` reports.
    """
    if recipe.tune is None or recipe.tune.target.concepts is None:
        return None
    data = recipe.tune.target.images
    if data.dataset is not None:
        data = data.model_copy(update={"dataset": dataset_path(data.dataset, home)})
    tasks = () if recipe.evaluate is None else recipe.evaluate.tasks
    check_other("tune.target.images", data, [with_full_path(task, home) for task in tasks])
    return data


def check_other(name: str, data: DatasetSettings, reported: Iterable[Task]) -> None:
    """Raise InputError if the data of a search, at the place ``name``, are those of a reported task, by their names."""
    for task in reported:
        if same_source(data, task.data):
            raise InputError(
                f"{sanitize(name)}: these are the data of the task {sanitize(task.name)} of evaluate, and {RULE}: use "
                "another split, another dataset or another seed"
            )


def check_pictures(validation: Iterable[str], tested: Iterable[str], name: str) -> None:
    """Raise InputError if pictures of a test are validation pictures, by their sha256.

    Args:
        validation, tested: the sha256 of every picture.
        name: of the test's task.
    """
    seen, pictures = set(validation), list(tested)
    shared = sum(sha256 in seen for sha256 in pictures)
    if shared > SHARED * len(pictures):
        raise InputError(
            f"{sanitize(name)}: {shared} of {len(pictures)} pictures are among the validation pictures, and {RULE}; "
            "these results are not shown. Use other test data, or other validation data, and run again"
        )


def same_source(one: DatasetSettings, two: DatasetSettings) -> bool:
    """Return whether two data are, or may be, the same rows, by their names."""
    if one.world is not None or two.world is not None:
        return (one.world, one.seed) == (two.world, two.seed)
    if None not in (one.sha256, two.sha256) and one.sha256 == two.sha256:
        return True
    if _place(one) != _place(two) or (None not in (one.name, two.name) and one.name != two.name):
        return False
    if None not in (one.split, two.split) and not _overlap(str(one.split), str(two.split)):
        return False
    return not any(_apart(one.where[key], two.where[key]) for key in one.where.keys() & two.where.keys())


def _on(task: Task, data: DatasetSettings) -> Task:
    """Return a task on other data, with the columns and rows of its own unless the data have theirs."""
    own = {key: getattr(task.data, key) for key in ("columns", "where") if key not in data.model_fields_set}
    changed: Task = task.model_copy(update={"data": data.model_copy(update=own)})
    return changed


def _place(data: DatasetSettings) -> str:
    name = str(data.dataset)
    return os.path.realpath(name) if os.path.lexists(name) else name.casefold()


def _overlap(one: str, two: str) -> bool:
    """Return whether two specifications of splits, such as ``train[:80%]`` and ``train[80%:]``, may share rows."""
    return any(
        mine.name == theirs.name and (mine.unit != theirs.unit or (mine.low < theirs.high and theirs.low < mine.high))
        for mine in _slices(one)
        for theirs in _slices(two)
    )


class _Slice(NamedTuple):
    name: str
    unit: str
    low: float
    high: float


def _slices(spec: str) -> Iterator[_Slice]:
    """Yield each split of a specification with its first and last row or percent; the whole where it cannot be read."""
    for part in spec.split("+"):
        text = re.sub(r"\s", "", part)
        found = re.fullmatch(r"([^[]+)\[(\d*)(%?):(\d*)(%?)\]", text)
        if found is None or (found[2] and found[4] and found[3] != found[5]):
            yield _Slice(text.partition("[")[0], "whole", 0, inf)
        else:
            yield _Slice(found[1], found[3] or found[5], float(found[2] or 0), float(found[4] or inf))


def _apart(one: object, two: object) -> bool:
    """Return whether two values of ``where`` can have no row in common."""
    first, second = ({str(x) for x in (value if isinstance(value, tuple) else (value,))} for value in (one, two))
    return not first & second
