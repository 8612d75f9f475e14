"""Open the validation data, or the images for concepts, and what a search measures on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sith_hf.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.evaluation import HeldTask, Task, hold_tasks
from sith_hf.gains import drift_shares
from sith_hf.images import DatasetSettings, HeldRows, ModelVariant, check_count, hold_rows, open_dataset, text_model_of
from sith_hf.recipe import TuneStep
from sith_hf.tuning.candidates import Candidates
from sith_hf.tuning.objectives import ConceptFigure, DriftFigure, Objective, TaskFigure


@dataclass(frozen=True, eq=False)
class Objectives:
    """What a search measures.

    Attributes:
        target, collateral: the two figures.
        tasks: the tasks on validation data.
        images: the images for concepts, if the target is one of concepts.
    """

    target: Objective
    collateral: Objective
    tasks: tuple[HeldTask, ...]
    images: HeldRows | None = None

    @property
    def lowest(self) -> tuple[bool, bool]:
        """Whether low values of target and collateral are wanted."""
        return self.target.lowest, self.collateral.lowest

    @property
    def digests(self) -> set[str]:
        """The sha256 of every picture that the search looks at."""
        rows = [task.held.rows for task in self.tasks] + ([] if self.images is None else [self.images.rows])
        return {sha256 for each in rows for sha256 in each.digests}

    def data(self) -> dict[str, Any]:
        """Return what was looked at, as plain data."""
        found = {
            task.name: {
                "dataset": task.base.dataset,
                "split": task.base.split,
                "images": task.base.images,
                "sha256": task.base.data_sha256,
                "skipped": dict(task.base.skipped),
            }
            for task in self.tasks
        }
        if self.images is not None:
            rows = self.images.rows
            found["concepts"] = {
                "dataset": rows.source.title,
                "split": rows.source.split,
                "images": len(rows.digests),
                "sha256": rows.sha256(()),
                "skipped": dict(rows.skipped),
            }
        return found


def open_objectives(
    step: TuneStep,
    tasks: Mapping[str, Task],
    pictures: DatasetSettings | None,
    editor: SithEditor,
    variant: ModelVariant,
    decomposition: Decomposition,
    candidates: Candidates,
    depth: int,
    *,
    progress: bool = False,
) -> Objectives:
    """Open the data of a search.

    Args:
        step: the part ``tune`` of a recipe.
        tasks: the tasks of target and collateral on validation data (:func:`~sith_hf.tuning.split.validation_tasks`).
        pictures: the images for a target of concepts (:func:`~sith_hf.tuning.split.concept_images`).
        editor: an editor of the base.
        variant: the base, ready to embed.
        decomposition, candidates: the vectors.
        depth: the number of first layers that no edit changes.
        progress: show bars on stderr.

    Raises:
        InputError: unusable data, or a metric that a task does not have.
    """
    options: dict[str, Any] = {"batch_size": step.batch_size, "progress": progress}
    held = hold_tasks(variant, tuple(tasks.values()), depth, text=text_model_of(editor), **options)
    named = {task.name: task for task in held}
    images = None
    if step.target.concepts is not None and pictures is not None:
        column = pictures.columns.image
        source = open_dataset(pictures, progress=progress)
        images = hold_rows(variant, source, [column], (), depth, **options)
        check_count(len(images.rows.digests), source.title, images.rows.skipped)
        embedded = editor.embed(*dict.fromkeys(step.target.concepts))
        texts = torch.stack([embedding.float().cpu() for embedding in embedded.values()])
        amplify = all(gain > 1 for gain in candidates.gain.values())
        title = f"variation {'added to' if amplify else 'removed from'} {', '.join(step.target.concepts)}"
        target: Objective = ConceptFigure(images, column, texts, title, amplify=amplify)
    else:
        goal = step.target.goal == "lowest"
        target = TaskFigure(named[str(step.target.task)], step.target.metric, step.target.part, goal)
    cost = step.collateral
    if cost.task is None:
        shares = drift_shares(editor.tower, decomposition)
        collateral: Objective = DriftFigure({key: float(shares[decomposition.place(*key)]) for key in candidates.keys})
    else:
        collateral = TaskFigure(named[cost.task], cost.metric, cost.part, cost.lowest)
    return Objectives(target, collateral, held, images)
