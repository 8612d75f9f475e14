"""The metrics as ``evaluate.Metric`` classes, for code that is built on that library. They never need the Hub.

``evaluate.load`` would ask the Hub for a script; these classes are made directly::

    from sith_hf.evaluation.wrapped import GroupAccuracy

    GroupAccuracy().compute(predictions=[0, 1], references=[0, 0], groups=["boat/sea", "boat/road"])
    # {"accuracy": 0.5, "average over groups": 0.5, "worst group": 0.0, "by group": {"boat/road": 0.0, "boat/sea": 1.0}}

Importing this module imports ``evaluate``, which takes seconds; nothing else in sith-hf does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from sith_hf.evaluation import metrics

_SOURCE = "sith-hf, sith_hf.evaluation.metrics"


def _info(description: str, inputs: str, features: dict[str, Any]) -> Any:
    return evaluate.MetricInfo(
        description=description,
        citation=_SOURCE,
        inputs_description=inputs,
        features=datasets.Features(features),
    )


class GroupAccuracy(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Accuracy, by group, over groups and of the worst group: :func:`sith_hf.evaluation.metrics.accuracy_by`."""

    def _info(self) -> Any:
        integer = datasets.Value("int64")
        return _info(
            "Accuracy of predictions, overall and by group.",
            "predictions and references: class indices; groups: a text for each item.",
            {"predictions": integer, "references": integer, "groups": datasets.Value("string")},
        )

    def _compute(self, predictions: Sequence[int], references: Sequence[int], groups: Sequence[str]) -> dict[str, Any]:
        names = sorted(set(groups))
        parts = [names.index(group) for group in groups]
        found = metrics.accuracy_by(predictions, references, parts)
        return {
            "accuracy": metrics.accuracy(predictions, references),
            "average over groups": sum(found.values()) / len(found),
            "worst group": min(found.values()),
            "by group": {names[part]: value for part, value in found.items()},
        }


class RetrievalRecall(evaluate.Metric):  # type: ignore[misc]
    """Recall at k of embeddings that answer each other in pairs: :func:`sith_hf.evaluation.metrics.ranks`."""

    def _info(self) -> Any:
        rows = datasets.Sequence(datasets.Value("float64"))
        return _info(
            "The share of queries whose own partner is among the k nearest of the pool.",
            "predictions: normalised embeddings of queries; references: those of their partners, in the same order.",
            {"predictions": rows, "references": rows},
        )

    def _compute(
        self, predictions: Sequence[Any], references: Sequence[Any], ks: Sequence[int] = (1, 5, 10)
    ) -> dict[str, float]:
        queries, pool = np.asarray(predictions), np.asarray(references)
        found = metrics.ranks(queries, pool, np.arange(len(queries)))
        return {f"recall at {k}": metrics.recall_at(found, k) for k in ks}


class EmbeddingDrift(evaluate.Metric):  # type: ignore[misc]
    """How far embeddings moved, 1 - cosine: :func:`sith_hf.evaluation.metrics.drift`."""

    def _info(self) -> Any:
        rows = datasets.Sequence(datasets.Value("float64"))
        return _info(
            "1 - cosine between two models' embeddings of the same items: mean, 95th percentile and maximum.",
            "predictions: embeddings by the edited model; references: by its base, in the same order.",
            {"predictions": rows, "references": rows},
        )

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        return metrics.drift_summary(metrics.drift(np.asarray(references), np.asarray(predictions)))
