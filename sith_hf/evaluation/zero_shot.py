"""Zero-shot classification: accuracy, per class, per group, over groups and classes, and of the worst group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError
from sith_hf.evaluation import metrics
from sith_hf.evaluation.plan import ZeroShot
from sith_hf.evaluation.result import MetricResult, TaskResult
from sith_hf.evaluation.task import TaskData, TaskRunner
from sith_hf.evaluation.texts import check_sizes, class_embeddings
from sith_hf.images import EmbeddedRows, ImageDataset

_SHOWN = 8


class Labels:
    """The label and group columns of a dataset, read as classes and groups of a task.

    Attributes:
        classes: the names, in order.

    Raises:
        InputError: the dataset names no classes and the task gives none, or gives other ones.
    """

    def __init__(self, task: ZeroShot, source: ImageDataset) -> None:
        self._source, self._given = source, task.classes
        self._column, self._groups = task.data.columns.label, task.data.columns.groups
        source.check([self._column, *self._groups])
        names = source.names_of(self._column)
        given = self._given
        if given is None and names is None:
            raise InputError(
                f"{source.title}: the column {self._column} names no classes; list them with classes (--classes)"
            )
        if isinstance(given, Mapping):
            self._index = {value: number for number, value in enumerate(given)}
            self.classes = tuple(given.values())
        else:
            self.classes = tuple(names or ()) if given is None else tuple(given)
            self._index = {name: number for number, name in enumerate(self.classes)}
            if names is not None and not set(names) & set(self.classes):
                raise InputError(
                    f"{source.title}: {self._column} is one of {_some(names)}, and the classes are "
                    f"{_some(self.classes)}; give classes as label: name, such as {names[0]}: {self.classes[0]}"
                )
        if len(set(self.classes)) < len(self.classes) or len(self.classes) < 2:
            raise InputError(
                f"{source.title}: a classification needs at least two classes with different names; got "
                f"{_some(self.classes)}"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to read of every row."""
        return (self._column, *self._groups)

    def label(self, row: Mapping[str, Any], number: int) -> int:
        """Return the index of a row's class. Raises InputError for a label outside the classes."""
        value = row[self._column]
        text = self._source.text_of(self._column, value)
        if text in self._index:
            return self._index[text]
        # Numbers without names are indices, unless the task maps them to names.
        nameless = self._source.names_of(self._column) is None and not isinstance(self._given, Mapping)
        if nameless and isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.classes):
            return value
        raise InputError(
            f"{self._source.title}: row {number} has the {self._column} "
            f"{sanitize(str(value if text is None else text))}"
            f", which is not among the classes {_some(self.classes)}: add it to classes, or choose rows with where"
        )

    def group(self, row: Mapping[str, Any], number: int) -> str | None:
        """Return a row's group, None for a task without groups. Raises InputError for a row without one."""
        if not self._groups:
            return None
        parts = [self._source.text_of(name, row[name]) for name in self._groups]
        if any(part is None for part in parts):
            raise InputError(f"{self._source.title}: row {number} has no {'/'.join(self._groups)}")
        return "/".join(str(part) for part in parts)

    def of(self, columns: Mapping[str, tuple[Any, ...]]) -> tuple[NDArray[np.int64], list[str | None]]:
        """Return the labels, int64 ``[N]``, and the groups of N rows."""
        count = len(columns[self._column])
        rows = [{name: columns[name][i] for name in self.columns} for i in range(count)]
        labels = np.array([self.label(row, i) for i, row in enumerate(rows)], dtype=np.int64)
        return labels, [self.group(row, i) for i, row in enumerate(rows)]

    def declared_groups(self) -> tuple[str, ...]:
        """Return the group names that the dataset declares, even those without a row; empty if it declares none."""
        names = self._source.names_of(self._groups[0]) if len(self._groups) == 1 else None
        return () if names is None else names


class ZeroShotRunner(TaskRunner[ZeroShot]):
    """Zero-shot classification of the images by every variant."""

    def __init__(self, task: ZeroShot, source: ImageDataset) -> None:
        super().__init__(task, source)
        self.labels = Labels(task, source)
        self.columns = self.labels.columns

    def check(self, row: Mapping[str, Any], number: int) -> None:
        """Raise InputError for a label outside the classes, or a row without a group."""
        self.labels.label(row, number)
        self.labels.group(row, number)

    def run(self, data: TaskData) -> TaskResult:
        """Compute accuracies of everything, of classes and of groups.

        Classes and groups without an image are listed in the notes and count in no mean. The bootstrap draws images
        within groups, so that every resample has all groups, and finds the worst group of each resample. For
        classes it draws within classes.

        Raises:
            InputError: no text model, or one of another joint space.
        """
        from sith_hf.evaluation.metric_classes import ClassAccuracy, GroupAccuracy

        task, names = self.task, self.labels.classes
        classes = class_embeddings(data.text, names, task.templates, progress=data.progress)
        images = data.rows.images[task.data.columns.image]
        check_sizes(images, classes)
        truth, groups = self.labels.of(data.rows.values)
        predicted = np.stack([metrics.predictions(own, classes) for own in images])
        correct = predicted == truth
        items: dict[str, NDArray[Any]] = {"correct": correct, "prediction": predicted, "label": truth}

        by_class, by_group = ClassAccuracy(), GroupAccuracy()
        found: list[dict[str, Any]] = []
        for own in predicted:
            by_class.add_batch(predictions=own, references=truth)
            found.append(by_class.compute())
        present = sorted({group for group in groups if group is not None})
        strata = None
        if present:
            for own, values in zip(predicted, found, strict=True):
                by_group.add_batch(predictions=own, references=truth, groups=groups)
                values.update(by_group.compute())
            strata = np.array([present.index(str(group)) for group in groups], dtype=np.int64)
            items["group"] = strata
        results = self._over_groups(data, found, correct, present, strata)
        results += self._over_classes(data, found, correct, truth)
        return data.result(task, results, items, notes=_notes(self.labels, truth, present, data.rows))

    def _over_groups(
        self,
        data: TaskData,
        found: Sequence[Mapping[str, Any]],
        correct: NDArray[np.bool_],
        groups: Sequence[str],
        strata: NDArray[np.int64] | None,
    ) -> list[MetricResult]:
        drawn, count = data.resampled(correct, strata, salt=f"{self.task.name}/groups"), correct.shape[1]
        sizes = np.ones(1, dtype=np.int64) if strata is None else np.bincount(strata)
        overall = (drawn * (sizes / sizes.sum())[:, None]).sum(axis=1)
        results = [data.metric("accuracy", None, [own["accuracy"] for own in found], overall, count)]
        if strata is None:
            return results
        for name, resampled, samples in (
            ("average over groups", drawn.mean(axis=1), count),
            ("worst group", drawn.min(axis=1), int(sizes.min())),
        ):
            results.append(data.metric(name, None, [own[name] for own in found], resampled, samples))
        for g, group in enumerate(groups):
            values = [own["by group"][group] for own in found]
            results.append(data.metric("accuracy", f"group {group}", values, drawn[:, g], int(sizes[g])))
        return results

    def _over_classes(
        self,
        data: TaskData,
        found: Sequence[Mapping[str, Any]],
        correct: NDArray[np.bool_],
        truth: NDArray[np.int64],
    ) -> list[MetricResult]:
        present, strata, sizes = np.unique(truth, return_inverse=True, return_counts=True)
        drawn = data.resampled(correct, strata, salt=f"{self.task.name}/classes")
        values = [own["average over classes"] for own in found]
        results = [data.metric("average over classes", None, values, drawn.mean(axis=1), len(truth))]
        for i, number in enumerate(present.tolist()):
            values = [own["by class"][number] for own in found]
            part = f"class {self.labels.classes[number]}"
            results.append(data.metric("accuracy", part, values, drawn[:, i], int(sizes[i])))
        return results


def _notes(labels: Labels, truth: NDArray[np.int64], groups: Sequence[str], embedded: EmbeddedRows) -> list[str]:
    notes = []
    empty = [name for number, name in enumerate(labels.classes) if not (truth == number).any()]
    if empty:
        notes.append(
            f"{len(empty)} of {len(labels.classes)} classes have no image and count in no mean: {_some(empty)}"
        )
    lost = {group for group in labels.of(embedded.left_out)[1] if group is not None} if embedded.skipped else set()
    without = sorted((lost | (set(labels.declared_groups()) if groups else set())) - set(groups))
    if without:
        notes.append(f"{len(without)} groups have no image and count in no mean: {_some(without)}")
    return notes


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(sanitize(name, 40) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
