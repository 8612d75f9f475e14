"""Zero-shot classification: accuracy, per class, per group, over groups and classes, and of the worst group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError
from sith_hf.evaluation import metrics
from sith_hf.evaluation.bootstrap import compared, stratum_means
from sith_hf.evaluation.plan import ZeroShot
from sith_hf.evaluation.result import Measure, TaskResult
from sith_hf.evaluation.texts import check_sizes, class_embeddings
from sith_hf.images import Embedded, Source
from sith_hf.towers import LoadedModel

_SHOWN = 8


class Labels:
    """What the label and group columns of a dataset say, in terms of the classes of a task.

    Attributes:
        classes: the names, in order.

    Raises:
        InputError: the dataset names no classes and the task gives none, or gives other ones.
    """

    def __init__(self, task: ZeroShot, source: Source) -> None:
        self._source, self._given = source, task.classes
        self._column, self._groups = task.data.columns.label, task.data.columns.groups
        source.check([self._column, *self._groups])
        names = source.names_of(self._column)
        given = self._given
        if given is None and names is None:
            raise InputError(
                f"{source.title}: the column {self._column} has no names of classes of its own; give classes"
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
            raise InputError(f"{source.title}: a classification needs at least two classes, each of another name")

    @property
    def columns(self) -> tuple[str, ...]:
        """What must be read of every row."""
        return (self._column, *self._groups)

    def label(self, row: Mapping[str, Any], number: int) -> int:
        """The index of a row's class. Raises InputError for a label that is not among the classes."""
        value = row[self._column]
        text = self._source.text_of(self._column, value)
        if text in self._index:
            return self._index[text]
        # Numbers without names are indices, unless the task says what each of them means.
        nameless = self._source.names_of(self._column) is None and not isinstance(self._given, Mapping)
        if nameless and isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.classes):
            return value
        raise InputError(
            f"{self._source.title}: row {number} has the {self._column} "
            f"{sanitize(str(value if text is None else text))}"
            f", which is not among the classes {_some(self.classes)}: add it to classes, or choose rows with where"
        )

    def group(self, row: Mapping[str, Any], number: int) -> str | None:
        """A row's group; None where the task has no groups. Raises InputError for a row without one."""
        if not self._groups:
            return None
        parts = [self._source.text_of(name, row[name]) for name in self._groups]
        if any(part is None for part in parts):
            raise InputError(f"{self._source.title}: row {number} has no {'/'.join(self._groups)}")
        return "/".join(str(part) for part in parts)

    def check(self, row: Mapping[str, Any], number: int) -> None:
        """Raises InputError where a row does not fit the task."""
        self.label(row, number)
        self.group(row, number)

    def of(self, columns: Mapping[str, tuple[Any, ...]]) -> tuple[NDArray[np.int64], list[str | None]]:
        """Labels and groups of many rows."""
        count = len(columns[self._column])
        rows = [{name: columns[name][i] for name in self.columns} for i in range(count)]
        labels = np.array([self.label(row, i) for i, row in enumerate(rows)], dtype=np.int64)
        return labels, [self.group(row, i) for i, row in enumerate(rows)]

    def declared_groups(self) -> tuple[str, ...]:
        """The groups that the dataset itself names, rows or not; empty where it names none."""
        names = self._source.names_of(self._groups[0]) if len(self._groups) == 1 else None
        return () if names is None else names


def zero_shot(
    task: ZeroShot,
    labels: Labels,
    embedded: Embedded,
    variants: tuple[str, ...],
    text: LoadedModel | None,
    *,
    resamples: int,
    seed: int,
    progress: bool = False,
) -> TaskResult:
    """Classify what was embedded by every contender.

    Accuracies of classes and groups without a picture do not exist: they are named in the notes, and count in no
    mean. The bootstrap draws pictures within groups where there are groups, so that every resample has all of them,
    and finds the worst group anew in each; for classes it draws within classes.

    Raises:
        InputError: labels outside the classes, or no text model.
    """
    classes = class_embeddings(text, labels.classes, task.templates, progress=progress)
    images = embedded.images[task.data.columns.image]
    check_sizes(images, classes)
    truth, groups = labels.of(embedded.values)
    predicted = np.stack([metrics.predictions(own, classes) for own in images])
    correct = predicted == truth
    items: dict[str, NDArray[Any]] = {"correct": correct, "prediction": predicted, "label": truth}

    names = sorted({group for group in groups if group is not None})
    strata = None
    if names:
        strata = np.array([names.index(str(group)) for group in groups], dtype=np.int64)
        items["group"] = strata
    measures = _measures(task.name, labels.classes, correct, truth, names, strata, variants, resamples, seed)
    return TaskResult(
        name=task.name,
        kind=task.kind,
        dataset=embedded.source.title,
        split=embedded.source.split,
        images=len(embedded),
        skipped=embedded.skipped,
        notes=tuple(_notes(labels, truth, names, embedded)),
        measures=tuple(measures),
        items=items,
    )


def _measures(
    name: str,
    classes: Sequence[str],
    correct: NDArray[np.bool_],
    truth: NDArray[np.int64],
    groups: Sequence[str],
    strata: NDArray[np.int64] | None,
    variants: tuple[str, ...],
    resamples: int,
    seed: int,
) -> list[Measure]:
    drawn = stratum_means(correct, strata, resamples=resamples, seed=seed, salt=f"{name}/groups")
    sizes = np.ones(1) if strata is None else np.bincount(strata) / len(strata)
    count = correct.shape[1]
    measures = [compared("accuracy", None, variants, correct.mean(axis=1), (drawn * sizes[:, None]).sum(axis=1), count)]
    if strata is not None:
        by_group = np.stack([correct[:, strata == g].mean(axis=1) for g in range(len(groups))])
        smallest = int(np.bincount(strata).min())
        measures += [
            compared("average over groups", None, variants, by_group.mean(axis=0), drawn.mean(axis=1), count),
            compared("worst group", None, variants, by_group.min(axis=0), drawn.min(axis=1), smallest),
        ]
        measures += [
            compared("accuracy", f"group {group}", variants, by_group[g], drawn[:, g], int((strata == g).sum()))
            for g, group in enumerate(groups)
        ]
    present = sorted(set(truth.tolist()))
    within = np.searchsorted(present, truth)
    drawn = stratum_means(correct, within, resamples=resamples, seed=seed, salt=f"{name}/classes")
    by_class = np.stack([correct[:, truth == c].mean(axis=1) for c in present])
    measures.append(compared("average over classes", None, variants, by_class.mean(axis=0), drawn.mean(axis=1), count))
    return measures + [
        compared("accuracy", f"class {classes[c]}", variants, by_class[i], drawn[:, i], int((truth == c).sum()))
        for i, c in enumerate(present)
    ]


def _notes(labels: Labels, truth: NDArray[np.int64], groups: Sequence[str], embedded: Embedded) -> list[str]:
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
