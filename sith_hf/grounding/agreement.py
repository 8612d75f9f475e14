"""How well an explanation and images agree: an AUC with a permutation p-value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sith_hf.core.short_repr import short_repr

DRAWS, SEED = 9_999, 0
"""Random divisions of the images, and their seed."""


@short_repr
@dataclass(frozen=True)
class Agreement:
    """Whether the images that drive a pole look more like its words than other images do.

    Attributes:
        auc: the probability that one of the top images is more similar to the words than one of the random images;
            0.5 is chance. Ties count one half.
        p_value: the share of random divisions of all these images whose AUC is as high; at least 1 / (1 + DRAWS).
        top, random: the numbers of images.
    """

    auc: float
    p_value: float
    top: int
    random: int


def agreement(top: Sequence[float] | NDArray[np.float64], random: Sequence[float] | NDArray[np.float64]) -> Agreement:
    """Compare similarities of top images with those of random ones, none of which is a top image.

    If nothing connects the top images with the words, every division of the images into so many and so many is equally
    likely, and the p-value is at most a with probability at most a. The test is one-sided: images that are less similar
    than others disagree with the words.
    """
    values, count = np.concatenate([np.asarray(top, np.float64), np.asarray(random, np.float64)]), len(top)
    ranks = _ranks(values)
    divisions = ranks[_divisions(len(values), count)].sum(axis=1)
    observed, least = ranks[:count].sum(), count * (count + 1) / 2
    auc = (observed - least) / (count * (len(values) - count))
    # Sums of half ranks are exact in float64.
    p = (1 + int((divisions >= observed).sum())) / (1 + DRAWS)
    return Agreement(float(auc), p, count, len(values) - count)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks from 1; equal values share the mean of theirs."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") + 1) / 2


@lru_cache(maxsize=8)
def _divisions(count: int, chosen: int) -> NDArray[np.intp]:
    """Return DRAWS random choices of ``chosen`` out of ``count``, ``[DRAWS, chosen]``."""
    drawn = np.random.default_rng(SEED).random((DRAWS, count))
    return drawn.argpartition(chosen - 1, axis=1)[:, :chosen]
