"""The metrics as plain functions of arrays, without models or datasets.

Ties: embeddings of one image differ by about 1e-7 between passes, so scores within ``TIE`` of each other count as
equal. The prediction is then the first of the tied classes. In retrieval a right answer ranks behind every wrong one
that it ties with, so that a model with the same embedding for everything finds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sith_hf.errors import InputError

TIE = 1e-6
ROWS = 512

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def predictions(images: ArrayLike, classes: ArrayLike) -> Ints:
    """Return the class with the nearest embedding for each image, int64 ``[N]``.

    Args:
        images: ``[N, P]`` normalised.
        classes: ``[K, P]`` normalised.
    """
    left, right = _embeddings(images, classes)
    found = np.empty(len(left), dtype=np.int64)
    for start in range(0, len(left), ROWS):
        scores = left[start : start + ROWS] @ right.T
        found[start : start + ROWS] = (scores >= scores.max(axis=1, keepdims=True) - TIE).argmax(axis=1)
    return found


def accuracy(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of right predictions. Raises InputError for no items, or different numbers of them."""
    left, right = _paired(predicted, labels)
    return float((left == right).mean())


def accuracy_by(predicted: ArrayLike, labels: ArrayLike, parts: ArrayLike) -> dict[int, float]:
    """Return the accuracy within each part (a group, or the label itself) that occurs, in ascending order."""
    left, right = _paired(predicted, labels)
    _, where = _paired(predicted, parts)
    return {int(part): float((left == right)[where == part].mean()) for part in np.unique(where)}


def ranks(queries: ArrayLike, pool: ArrayLike, right: Sequence[Sequence[int]] | ArrayLike) -> Ints:
    """Count the wrong answers before the best right one, int64 ``[Q]``; 0 is a hit at 1.

    Args:
        queries: ``[Q, P]`` normalised.
        pool: ``[M, P]`` normalised, the candidates.
        right: for each query the index in the pool of the right answer, or of several.

    Raises:
        InputError: a query without a right answer in the pool.
    """
    left, candidates = _embeddings(queries, pool)
    answers = [np.atleast_1d(np.asarray(item, dtype=np.int64)) for item in right]  # type: ignore[union-attr]
    if len(answers) != len(left):
        raise InputError(f"expected right answers for {len(left)} queries; got {len(answers)}")
    if any(len(item) == 0 or item.min() < 0 or item.max() >= len(candidates) for item in answers):
        raise InputError("every query needs a right answer in the pool")
    found = np.empty(len(left), dtype=np.int64)
    for start in range(0, len(left), ROWS):
        scores = left[start : start + ROWS] @ candidates.T
        for row, own in enumerate(answers[start : start + ROWS]):
            best = scores[row, own].max()
            scores[row, own] = -np.inf
            found[start + row] = (scores[row] >= best - TIE).sum()
    return found


def recall_at(rank: ArrayLike, k: int) -> float:
    """Return the share of queries whose right answer is among the first ``k``."""
    values = np.asarray(rank)
    if values.size == 0:
        raise InputError("recall needs at least one query")
    return float((values < k).mean())


def drift(base: ArrayLike, other: ArrayLike) -> Floats:
    """Return 1 - cosine between each embedding and its base, float64 ``[N]`` in [0, 2]."""
    left, right = _embeddings(base, other)
    if left.shape != right.shape:
        raise InputError(f"drift needs two embeddings of each item; got {len(left)} and {len(right)}")
    # Half the squared distance of unit vectors; 1 - cosine would lose small drifts to rounding.
    apart = _unit(left) - _unit(right)
    return np.asarray((apart * apart).sum(axis=1) / 2, dtype=np.float64)


def drift_summary(values: ArrayLike) -> dict[str, float]:
    """Return the mean, 95th percentile and maximum of drifts."""
    drifts = np.asarray(values, dtype=np.float64)
    if drifts.size == 0:
        raise InputError("drift needs at least one item")
    return {
        "mean": float(drifts.mean()),
        "95th percentile": float(np.quantile(drifts, 0.95)),
        "maximum": float(drifts.max()),
    }


def _unit(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if (lengths == 0).any():
        raise InputError("an embedding is zero: it has no direction")
    return np.asarray(rows / lengths, dtype=np.float64)


def _embeddings(left: ArrayLike, right: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise InputError(f"embeddings must be [items, size] of one size; got {list(a.shape)} and {list(b.shape)}")
    return a, b


def _paired(left: ArrayLike, right: ArrayLike) -> tuple[Ints, Ints]:
    a, b = np.asarray(left), np.asarray(right)
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise InputError(f"expected two [items] of one length, at least one item; got {list(a.shape)}, {list(b.shape)}")
    return a, b
