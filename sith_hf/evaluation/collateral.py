"""What an edit was not meant to change: how far image embeddings move, and how many predictions stay."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sith_hf.evaluation import metrics
from sith_hf.evaluation.bootstrap import compared, stratum_means
from sith_hf.evaluation.plan import Collateral
from sith_hf.evaluation.result import TaskResult
from sith_hf.evaluation.texts import check_sizes, class_embeddings
from sith_hf.images import BASE, Embedded
from sith_hf.towers import LoadedModel


def collateral(
    task: Collateral,
    embedded: Embedded,
    variants: tuple[str, ...],
    text: LoadedModel | None,
    *,
    resamples: int,
    seed: int,
    progress: bool = False,
) -> TaskResult:
    """Compare every contender with the base on the same images; the base itself has drift 0 and agreement 1.

    Drift is 1 - cosine between a contender's embedding of an image and the base's: mean, 95th percentile, maximum.
    Agreement is the share of images for which the nearest of the classes is the same. The last two figures of drift
    come without interval: a bootstrap says little about extremes.

    Raises:
        InputError: classes, and no text model.
    """
    images = embedded.images[task.data.columns.image]
    base = images[variants.index(BASE)]
    drift = np.stack([metrics.drift(base, own) for own in images])
    items: dict[str, NDArray[Any]] = {"drift": drift}
    count = len(embedded)
    summaries = [metrics.drift_summary(own) for own in drift]
    drawn = stratum_means(drift, resamples=resamples, seed=seed, salt=f"{task.name}/drift")[:, 0]
    measures = [
        compared(
            f"drift, {name}",
            None,
            variants,
            np.array([summary[name] for summary in summaries]),
            drawn if name == "mean" else None,
            count,
        )
        for name in ("mean", "95th percentile", "maximum")
    ]
    if task.classes is not None:
        classes = class_embeddings(text, task.classes, task.templates, progress=progress)
        check_sizes(images, classes)
        predicted = np.stack([metrics.predictions(own, classes) for own in images])
        items["prediction"] = predicted
        agrees = predicted == predicted[variants.index(BASE)]
        drawn = stratum_means(agrees, resamples=resamples, seed=seed, salt=f"{task.name}/agreement")[:, 0]
        measures.append(compared("agreement of predictions", None, variants, agrees.mean(axis=1), drawn, count))
    return TaskResult(
        name=task.name,
        kind=task.kind,
        dataset=embedded.source.title,
        split=embedded.source.split,
        images=count,
        skipped=embedded.skipped,
        notes=(),
        measures=tuple(measures),
        items=items,
    )
