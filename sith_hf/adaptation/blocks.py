"""Blocks of close singular values, whose vectors are compared as subspaces and not one by one.

The vectors of equal singular values are any orthonormal basis of their span, and those of close values turn freely
under a small change (Method, sec. 7).
"""

from __future__ import annotations

from collections.abc import Sequence

CLOSE = 0.03
"""The largest relative distance of two singular values of one block."""


def blocks(values: Sequence[float], close: float = CLOSE) -> list[tuple[int, int]]:
    """Return the blocks of close values, as (start, stop), in order.

    A run of values is split at its largest relative gap until the first and the last value of every block are at most
    ``close`` apart. So chains of close values do not grow into one block, and equal values are never split.

    Args:
        values: positive, descending.
        close: the largest relative distance inside a block, 0 or more.
    """
    waiting, found = [(0, len(values))] if values else [], []
    while waiting:
        start, stop = waiting.pop()
        if values[stop - 1] >= (1 - close) * values[start]:
            found.append((start, stop))
            continue
        cut = min(range(start + 1, stop), key=lambda i: values[i] / values[i - 1])
        waiting += [(cut, stop), (start, cut)]
    return found


def ends(values: Sequence[float], close: float = CLOSE) -> set[int]:
    """Return the numbers of leading values that end with a block; after the last value too."""
    return {stop for _, stop in blocks(values, close)}
