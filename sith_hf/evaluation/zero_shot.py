"""Zero-shot classification: accuracy, per class, per group, over groups and classes, and of the worst group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError
from sith_hf.evaluation import metrics
from sith_hf.evaluation.plan import ZeroShot
from sith_hf.evaluation.task import TaskData, TaskRunner
from sith_hf.evaluation.task_result import TaskResult
from sith_hf.evaluation.texts import by_variant, check_sizes, class_drift, class_embeddings, moved_classes
from sith_hf.images import BASE, EmbeddedRows, ImageDataset


class ZeroShotRunner(TaskRunner[ZeroShot]):
    """Zero-shot classification of the images by every variant.

    Attributes:
        classes: the names, in order.

    Raises:
        InputError: the dataset and the task name no classes, or different ones.
    """

    def __init__(self, task: ZeroShot, source: ImageDataset) -> None:
        super().__init__(task, source)
        self._label, self._groups = task.data.columns.label, task.data.columns.groups
        self.columns = (self._label, *self._groups)
        source.check(self.columns)
        names, given = source.names_of(self._label), task.classes
        if given is None and names is None:
            raise InputError(
                f"{source.title}: the column {self._label} names no classes; list them with classes (--classes)"
            )
        self.classes = tuple(given.values()) if isinstance(given, Mapping) else tuple(given or names or ())
        self._index = {key: i for i, key in enumerate(given if isinstance(given, Mapping) else self.classes)}
        # Numbers without names are indices, unless the task maps them to names.
        self._nameless = names is None and not isinstance(given, Mapping)
        if names is not None and not isinstance(given, Mapping) and not set(names) & set(self.classes):
            raise InputError(
                f"{source.title}: {self._label} is one of {_some(names)}, and the classes are "
                f"{_some(self.classes)}; give classes as label: name, such as {names[0]}: {self.classes[0]}"
            )
        if len(set(self.classes)) < len(self.classes) or len(self.classes) < 2:
            raise InputError(
                f"{source.title}: a classification needs at least two classes with different names; got "
                f"{_some(self.classes)}"
            )

    def check(self, row: Mapping[str, Any], number: int) -> None:
        """Raise InputError for a label outside the classes, or a row without a group.

        A row without a label is left out instead: in ``datasets`` the label -1 of a ``ClassLabel`` says that it has
        none, as in the test splits of benchmarks.
        """
        if self.has_label(row[self._label]):
            self._read_label(row, number)
        self._read_group(row, number)

    def has_label(self, value: Any) -> bool:
        """Return whether a row with this value of the label column has a label."""
        missing = value is None or value != value
        return not missing and not (value == -1 and self.source.names_of(self._label) is not None)

    def _read_label(self, row: Mapping[str, Any], number: int) -> int:
        """Return the index of a row's class."""
        value = row[self._label]
        text = self.source.text_of(self._label, value)
        if text in self._index:
            return self._index[text]
        # A column of numbers with a missing one has floating-point numbers: 2.0 is the class 2.
        whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
        if self._nameless and whole and 0 <= value < len(self.classes):
            return int(value)
        shown = sanitize(str(value if text is None else text))
        raise InputError(
            f"{self.source.title}: row {number} has the {self._label} {shown}, "
            f"which is not among the classes {_some(self.classes)}: add it to classes, or choose rows with where"
        )

    def _read_group(self, row: Mapping[str, Any], number: int) -> str:
        """Return a row's group; an empty text for a task without groups."""
        parts = [self.source.text_of(name, row[name]) for name in self._groups]
        if any(part is None for part in parts):
            raise InputError(f"{self.source.title}: row {number} has no {'/'.join(self._groups)}")
        return "/".join(str(part) for part in parts)

    def _read_groups(self, values: Mapping[str, Sequence[Any]]) -> list[str]:
        """Return the groups of N rows."""
        return [self._read_group(row, i) for i, row in enumerate(_rows(values))]

    def group_names(self, rows: EmbeddedRows, kept: Sequence[int]) -> tuple[str, ...]:
        """Return the names of the groups of the kept rows, in the order of their numbers; none without groups."""
        groups = self._read_groups({name: [values[i] for i in kept] for name, values in rows.values.items()})
        return tuple(sorted(set(groups))) if self._groups else ()

    def run(self, data: TaskData) -> TaskResult:
        """Compute accuracies of everything, of classes and of groups.

        Classes and groups without an image are listed in the notes and count in no mean. The bootstrap draws images
        within groups, so that every resample has all groups, and finds the worst group of each resample. For
        classes it draws within classes. If variants differ in their text towers, each predicts with its own embeddings
        of the classes, and the drift of each class is added.

        Raises:
            InputError: no text model, or one of another joint space.
        """
        from sith_hf.evaluation.metric_classes import ClassAccuracy, GroupAccuracy, for_each

        task = self.task
        labelled = [self.has_label(value) for value in data.rows.values[self._label]]
        if not any(labelled):
            raise InputError(f"{self.source.title}: no row has a {self._label}; choose a split with labels (--split)")
        data = replace(data, rows=data.rows.keep(labelled, "no label"))
        classes = by_variant(
            data.texts,
            lambda text: class_embeddings(text, self.classes, task.templates, progress=data.progress),
            data.encoded.setdefault((self.classes, task.templates), {}),
        )
        images = data.rows.images[task.data.columns.image]
        check_sizes(images, classes)
        labels = [self._read_label(row, i) for i, row in enumerate(_rows(data.rows.values))]
        truth, groups = np.array(labels, dtype=np.int64), self._read_groups(data.rows.values)
        predicted = np.stack([metrics.predictions(own, texts) for own, texts in zip(images, classes, strict=True)])
        correct, count = predicted == truth, len(truth)
        items: dict[str, NDArray[Any]] = {"correct": correct, "prediction": predicted, "label": truth}

        present, strata, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        drawn = data.resampled(correct, strata, salt=f"{task.name}/groups")
        found = for_each(ClassAccuracy(), predicted, {"references": truth})
        overall = (drawn * (sizes / count)[:, None]).sum(axis=1)
        results = [data.metric("accuracy", None, [own["accuracy"] for own in found], overall, count)]
        if self._groups:
            items["group"] = strata
            grouped = for_each(GroupAccuracy(), predicted, {"references": truth, "groups": groups})
            for name, resampled, samples in (
                ("average over groups", drawn.mean(axis=1), count),
                ("worst group", drawn.min(axis=1), int(sizes.min())),
            ):
                results.append(data.metric(name, None, [own[name] for own in grouped], resampled, samples))
            for g, group in enumerate(present.tolist()):
                values = [own["by group"][group] for own in grouped]
                results.append(data.metric("accuracy", f"group {group}", values, drawn[:, g], int(sizes[g])))

        numbers, strata, sizes = np.unique(truth, return_inverse=True, return_counts=True)
        drawn = data.resampled(correct, strata, salt=f"{task.name}/classes")
        values = [own["average over classes"] for own in found]
        results.append(data.metric("average over classes", None, values, drawn.mean(axis=1), count))
        for i, number in enumerate(numbers.tolist()):
            values, part = [own["by class"][number] for own in found], f"class {self.classes[number]}"
            results.append(data.metric("accuracy", part, values, drawn[:, i], int(sizes[i])))
        notes = self._notes(set(numbers.tolist()), set(groups), data.rows)
        moved = class_drift(classes, data.variants.index(BASE))
        if moved is not None:
            results += [
                data.metric("drift", f"class {name}", moved[:, k].tolist(), None, len(task.templates))
                for k, name in enumerate(self.classes)
            ]
            notes += moved_classes(self.classes, dict(zip(data.variants, moved.tolist(), strict=True)))
        return self.result(data, results, items, notes)

    def _notes(self, numbers: set[int], groups: set[str], rows: EmbeddedRows) -> list[str]:
        """Return remarks on classes and groups without an image."""
        notes = []
        if empty := [name for number, name in enumerate(self.classes) if number not in numbers]:
            share = f"{len(empty)} of {len(self.classes)}"
            notes.append(f"{share} classes have no image and count in no mean: {_some(empty)}")
        expected = set(self._read_groups(rows.left_out)) if rows.skipped else set()
        if len(self._groups) == 1:
            expected.update(self.source.names_of(self._groups[0]) or ())
        if without := sorted(expected - groups):
            notes.append(f"{len(without)} groups have no image and count in no mean: {_some(without)}")
        return notes


def _rows(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(sanitize(name, 40) for name in names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"
