"""``HeldTask``: a task whose rows stay in memory, to measure many edits of the last layers one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sith_hf.core.short_repr import short_repr
from sith_hf.evaluation.plan import ZeroShot
from sith_hf.evaluation.run import RUNNERS
from sith_hf.evaluation.task import AnyTask, TaskData, TaskRunner
from sith_hf.evaluation.task_result import TaskResult
from sith_hf.evaluation.texts import class_embeddings
from sith_hf.evaluation.zero_shot import ZeroShotRunner
from sith_hf.images import BASE, EDITED, HeldRows, ModelVariant, hold_rows, open_dataset
from sith_hf.towers import LoadedModel


@dataclass(frozen=True, eq=False)
class HeldTask:
    """One task on held rows.

    Attributes:
        runner: the task on its opened dataset.
        held: the rows.
        data: the rows as a runner takes them, of the model without an edit.
        base: the result of the model without an edit.
    """

    runner: TaskRunner[Any]
    held: HeldRows
    data: TaskData
    base: TaskResult

    @property
    def name(self) -> str:
        """The name of the task."""
        return str(self.runner.task.name)

    def embed(self) -> dict[str, Tensor]:
        """Return the embeddings ``[N, P]`` of every image column by the model as it is now."""
        return {name: self.held.embed(name) for name in self.held.batches}

    def measure(self, images: Mapping[str, Tensor]) -> TaskResult:
        """Return the result of the base and of an edit, without intervals: every text is encoded once in all calls.

        Args:
            images: image column to embeddings ``[N, P]`` by the edited model (:meth:`embed`).
        """
        rows = self.held.rows
        both = {name: np.stack([rows.images[name][0], own.cpu().numpy()]) for name, own in images.items()}
        data = replace(self.data, rows=replace(rows, images=both), variants=(BASE, EDITED), texts=self.data.texts * 2)
        return self.runner.run(data)

    def labelled(self) -> Labelled | None:
        """Return labels and groups of a zero-shot task; None for another kind of task."""
        task, runner = self.runner.task, self.runner
        if not isinstance(task, ZeroShot) or not isinstance(runner, ZeroShotRunner):
            return None
        values = self.data.rows.values[task.data.columns.label]
        kept = np.flatnonzero([runner.has_label(value) for value in values])
        classes = class_embeddings(self.data.texts[0], runner.classes, task.templates)
        groups: NDArray[np.int64] | None = self.base.items.get("group")
        return Labelled(
            torch.from_numpy(classes).float(),
            torch.from_numpy(kept),
            torch.from_numpy(self.base.items["label"]),
            None if groups is None else torch.from_numpy(groups),
            runner.classes,
            runner.group_names(self.data.rows, kept.tolist()),
        )


@short_repr
@dataclass(frozen=True, eq=False)
class Labelled:
    """The labels of the n rows of a zero-shot task that have one.

    Attributes:
        classes: ``[K, P]`` float32, unit rows.
        rows: ``[n]`` int64, their places among all rows.
        label: ``[n]`` int64, the class of each.
        group: ``[n]`` int64, the group of each; None without groups.
        class_names, group_names: K names of classes, and the names of groups.
    """

    classes: Tensor
    rows: Tensor
    label: Tensor
    group: Tensor | None
    class_names: tuple[str, ...]
    group_names: tuple[str, ...]


def hold_tasks(
    variant: ModelVariant,
    tasks: Sequence[AnyTask],
    depth: int,
    *,
    text: LoadedModel | None,
    batch_size: int = 32,
    progress: bool = False,
) -> tuple[HeldTask, ...]:
    """Read the data of tasks once and keep what edits need; tasks on the same rows share them.

    Args:
        variant: the base, on its device and in evaluation mode (:func:`sith_hf.images.ready`).
        tasks: what to measure on which data.
        depth: the number of first layers that no edit changes.
        text: the model whose text tower encodes classes and captions; None if no task needs one.
        batch_size: rows at a time.
        progress: show bars on stderr.

    Raises:
        InputError: unusable data, as for :func:`sith_hf.evaluation.evaluate`.
    """
    kept: dict[tuple[str, tuple[str, ...]], list[AnyTask]] = {}
    for task in tasks:
        rows = task.data.model_dump_json(exclude={"columns", "sha256"})
        kept.setdefault((rows, RUNNERS[task.kind].image_columns(task)), []).append(task)
    found: dict[str, HeldTask] = {}
    for (_, images), together in kept.items():
        source = open_dataset(together[0].data, progress=progress)
        runners = [RUNNERS[task.kind](task, source) for task in together]

        def check(row: Mapping[str, Any], number: int, runners: Sequence[TaskRunner[Any]] = runners) -> None:
            for runner in runners:
                runner.check(row, number)

        columns = [column for runner in runners for column in runner.columns]
        held = hold_rows(variant, source, images, columns, depth, check=check, batch_size=batch_size, progress=progress)
        # One resample: nobody reads an interval of a trial.
        data = TaskData(held.rows, (BASE,), (text,), resamples=1, seed=0, progress=False)
        for runner in runners:
            found[runner.task.name] = HeldTask(runner, held, data, runner.run(data))
    return tuple(found[task.name] for task in tasks)
