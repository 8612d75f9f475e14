"""The metrics of the evaluation as ``evaluate.Metric`` classes, for use by themselves or with that library.

They never need the Hub, and keep their inputs in memory::

    from sith_hf.evaluation.metric_classes import ClassAccuracy, GroupAccuracy

    GroupAccuracy().compute(predictions=[0, 1], references=[0, 0], groups=["boat/sea", "boat/road"])
    # {"average over groups": 0.5, "worst group": 0.0, "by group": {"boat/road": 0.0, "boat/sea": 1.0}}
    both = evaluate.combine([ClassAccuracy(), GroupAccuracy()])
    both.add_batch(predictions=[0, 1], references=[0, 0], groups=["boat/sea", "boat/road"])
    both.compute()
    evaluate.evaluator("image-classification").compute("folder-or-hub-id", data, metric=ClassAccuracy(), ...)

Importing this module imports ``evaluate``, which takes a second or more: import it only to compute a figure.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np

from sith_hf.evaluation import metrics


class _ItemMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """A metric over items, each with one value for every input. It leaves no file behind.

    Attributes:
        inputs: input name to (type of ``datasets.Value``, meaning).
    """

    inputs: ClassVar[dict[str, tuple[str, str]]]

    def __init__(
        self, config_name: str | None = None, keep_in_memory: bool = True, cache_dir: str | None = None, **options: Any
    ) -> None:
        # evaluate makes its cache folder even when it keeps everything in memory.
        unused = keep_in_memory and cache_dir is None
        with tempfile.TemporaryDirectory(prefix="sith-hf-") if unused else nullcontext(cache_dir) as folder:
            super().__init__(config_name, keep_in_memory, folder, **options)

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=str(type(self).__doc__),
            citation="sith-hf, sith_hf.evaluation.metrics",
            inputs_description="\n".join(f"{name}: {meaning}" for name, (_, meaning) in self.inputs.items()),
            features=datasets.Features({name: datasets.Value(kind) for name, (kind, _) in self.inputs.items()}),
        )


class ClassAccuracy(_ItemMetric):
    """Accuracy over all items, of each class, and its mean over the classes that occur."""

    inputs: ClassVar = {
        "predictions": ("int64", "index of the predicted class"),
        "references": ("int64", "index of the true class"),
    }

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, Any]:
        by_class = metrics.accuracy_by(predictions, references, references)
        return {
            "accuracy": metrics.accuracy(predictions, references),
            "average over classes": float(np.mean(list(by_class.values()))),
            "by class": by_class,
        }


class GroupAccuracy(_ItemMetric):
    """Accuracy of each group, its mean over groups, and that of the worst group."""

    inputs: ClassVar = {**ClassAccuracy.inputs, "groups": ("string", "name of the item's group")}

    def _compute(self, predictions: Sequence[int], references: Sequence[int], groups: Sequence[str]) -> dict[str, Any]:
        names, parts = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        by_group = metrics.accuracy_by(predictions, references, parts)
        return {
            "average over groups": float(np.mean(list(by_group.values()))),
            "worst group": min(by_group.values()),
            "by group": {str(names[part]): value for part, value in by_group.items()},
        }


class RetrievalRecall(_ItemMetric):
    """Recall at k: the share of queries whose right answer is among the first k."""

    inputs: ClassVar = {
        "predictions": ("int64", "wrong answers before the right one, as sith_hf.evaluation.metrics.ranks counts them")
    }

    def _compute(self, predictions: Sequence[int], ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
        return {f"recall at {k}": metrics.recall_at(predictions, k) for k in ks}


class EmbeddingDrift(_ItemMetric):
    """Drift of embeddings, 1 - cosine: mean, 95th percentile and maximum over items."""

    inputs: ClassVar = {"predictions": ("float64", "drift of an item, as sith_hf.evaluation.metrics.drift gives it")}

    def _compute(self, predictions: Sequence[float]) -> dict[str, float]:
        return {f"drift, {name}": value for name, value in metrics.drift_summary(predictions).items()}


def for_each(metric: Any, variants: Iterable[Any], inputs: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """Compute a metric for each variant from its predictions and the inputs that all variants share."""
    found = []
    for own in variants:
        metric.add_batch(predictions=own, **(inputs or {}))
        found.append(metric.compute(**options))
    return found
