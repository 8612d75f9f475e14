"""The metrics as classes of ``evaluate``: offline, and equal to the plain functions."""

from __future__ import annotations

import os

import numpy as np
import pytest

from sith_hf.evaluation import metrics
from sith_hf.evaluation.wrapped import EmbeddingDrift, GroupAccuracy, RetrievalRecall


@pytest.fixture(scope="module")
def rng():
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    return np.random.default_rng(0)


def unit(rng, count):
    rows = rng.normal(size=(count, 6))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_group_accuracy(rng, tmp_path):
    predicted, truth, parts = (rng.integers(0, 3, 60) for _ in range(3))
    found = GroupAccuracy(cache_dir=str(tmp_path)).compute(
        predictions=predicted, references=truth, groups=[f"group {part}" for part in parts]
    )
    by_group = metrics.accuracy_by(predicted, truth, parts)
    assert found["accuracy"] == metrics.accuracy(predicted, truth)
    assert found["by group"] == {f"group {part}": value for part, value in by_group.items()}
    assert found["worst group"] == min(by_group.values()) < found["average over groups"] < 1


def test_recall(rng, tmp_path):
    queries, pool = unit(rng, 30), unit(rng, 30)
    found = RetrievalRecall(cache_dir=str(tmp_path)).compute(predictions=queries, references=pool, ks=(1, 5))
    rank = metrics.ranks(queries, pool, np.arange(30))
    assert found == {"recall at 1": metrics.recall_at(rank, 1), "recall at 5": metrics.recall_at(rank, 5)}
    assert found["recall at 5"] < 1


def test_drift(rng, tmp_path):
    base, edited = unit(rng, 20), unit(rng, 20)
    found = EmbeddingDrift(cache_dir=str(tmp_path)).compute(predictions=edited, references=base)
    assert found == pytest.approx(metrics.drift_summary(metrics.drift(base, edited)))
    assert found["mean"] > 0
