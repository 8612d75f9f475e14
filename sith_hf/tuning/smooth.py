"""Differentiable stand-ins of metrics, whose slopes rank vectors.

An accuracy counts images with a positive margin. Its stand-in is the mean of a sigmoid of the margins, and for the
worst group a soft minimum over groups. Slopes order vectors; every figure that is reported is the metric itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import log

import torch
from torch import Tensor

from sith_hf.evaluation import HeldTask, Labelled

Smooth = Callable[[Mapping[str, Tensor]], Tensor]

# A soft minimum of this sharpness is within a few points of the minimum of eight groups.
SHARPNESS = 10.0


def smooth_metric(task: HeldTask, metric: str, part: str | None) -> Smooth | None:
    """Return a function from embeddings by image column to a stand-in of a metric; None for a metric without one."""
    column = task.runner.task.data.columns.image
    before = torch.from_numpy(task.data.rows.images[column][0])
    if task.base.kind == "collateral" and metric.startswith("drift") and "classes" not in metric:
        return lambda images: (1 - (images[column] * before.to(images[column].device)).sum(dim=-1)).mean()
    known = task.labelled()
    if known is None:
        return None
    reduce = _reduction(known, metric, part)
    if reduce is None:
        return None
    # As steep as margins of the model are wide.
    width = float(_margins(before, known).abs().median().clamp(min=1e-6))

    def smooth(images: Mapping[str, Tensor]) -> Tensor:
        return reduce(torch.sigmoid(3 * _margins(images[column], known) / width))

    return smooth


def _margins(images: Tensor, known: Labelled) -> Tensor:
    """Return for each labelled image the cosine of its class, less the largest of another class, ``[n]``."""
    scores = images[known.rows.to(images.device)] @ known.classes.T.to(images.device)
    label = known.label.to(images.device)[:, None]
    right = scores.gather(1, label)[:, 0]
    return right - scores.scatter(1, label, -torch.inf).amax(dim=1)


def _reduction(known: Labelled, metric: str, part: str | None) -> Callable[[Tensor], Tensor] | None:
    """Return what an accuracy does with correct images; None for another metric."""
    if metric == "accuracy" and part is None:
        return torch.mean
    kind, _, name = (part or "").partition(" ")
    strata, names = (known.group, known.group_names) if kind == "group" else (known.label, known.class_names)
    if metric == "accuracy" and kind in ("group", "class") and name in names and strata is not None:
        here = strata == names.index(name)
        return lambda correct: correct[here.to(correct.device)].mean()
    if metric == "average over classes":
        return lambda correct: _means(correct, known.label).mean()
    group = known.group
    if group is None or part is not None:
        return None
    if metric == "average over groups":
        return lambda correct: _means(correct, group).mean()
    if metric == "worst group":
        return lambda correct: _softly_lowest(_means(correct, group))
    return None


def _means(correct: Tensor, strata: Tensor) -> Tensor:
    """Return the mean of each stratum that has an image."""
    return torch.stack(
        [correct[(strata == number).to(correct.device)].mean() for number in torch.unique(strata).tolist()]
    )


def _softly_lowest(values: Tensor) -> Tensor:
    return (log(len(values)) - torch.logsumexp(-SHARPNESS * values, dim=0)) / SHARPNESS
