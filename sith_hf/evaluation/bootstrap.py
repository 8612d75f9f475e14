"""The paired bootstrap of means over items, and of the worst of several means."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sith_hf.core.validation import whole_number
from sith_hf.errors import InputError

Floats = NDArray[np.float64]

# Numbers in one block of multinomial counts.
BLOCK = 4_000_000


def stratum_means(
    outcomes: ArrayLike, strata: ArrayLike | None = None, *, resamples: int = 2000, seed: int = 0, salt: str = ""
) -> Floats:
    """Return the mean of each stratum in each bootstrap resample, for all variants on the same resampled items.

    Items are drawn with replacement within their stratum. Items with equal outcomes are interchangeable, so the
    number of draws of each kind of item comes from one multinomial distribution. The result is bit-identical for any
    order of items and any size of blocks.

    Args:
        outcomes: ``[C, N]``, of C variants on N items.
        strata: ``[N]`` integers from 0 without gaps; one stratum when None.
        resamples: B.
        seed: of the draws.
        salt: draws of different salts are independent.

    Returns:
        float64 ``[B, G, C]``, strata in ascending order.

    Raises:
        InputError: no item, outcomes that are not finite, a stratum without items.
    """
    values = np.asarray(outcomes, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0 or not np.isfinite(values).all():
        raise InputError(f"outcomes must be finite, [variants, items], at least one item; got {list(values.shape)}")
    groups = np.zeros(values.shape[1], dtype=np.int64) if strata is None else np.asarray(strata, dtype=np.int64)
    if groups.shape != values.shape[1:]:
        raise InputError(f"strata must name one stratum for each of {values.shape[1]} items; got {list(groups.shape)}")
    generator = np.random.default_rng([whole_number(seed, "the seed", 0), zlib.crc32(salt.encode("utf-8"))])
    count = int(groups.max()) + 1
    means = np.empty((resamples, count, len(values)))
    for group in range(count):
        inside = values[:, groups == group]
        number = inside.shape[1]
        if number == 0:
            raise InputError(f"stratum {group} has no item")
        kinds, occurs = np.unique(inside.T, axis=0, return_counts=True)
        step = max(1, BLOCK // len(kinds))
        for start in range(0, resamples, step):
            size = min(step, resamples - start)
            counts = generator.multinomial(number, occurs / number, size=size)
            for variant, outcome in enumerate(kinds.T):
                # A sum along rows adds in the same order for any number of rows; a matrix product does not.
                means[start : start + size, group, variant] = (counts * outcome).sum(axis=1) / number
    return means


def interval(differences: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return the central interval with the share ``level`` of ``[B]`` resampled differences (percentile bootstrap)."""
    low, high = np.quantile(np.asarray(differences, dtype=np.float64), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
