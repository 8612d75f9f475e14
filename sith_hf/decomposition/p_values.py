"""P-values of fidelities against a null sample, or against a small sample of each head, and false discovery rates."""

from __future__ import annotations

import torch
from torch import Tensor

from sith_hf.decomposition.tail import FEWEST, REACH, exponential_tail, normal_tail
from sith_hf.errors import InputError

TAILS = {"normal": normal_tail, "exponential": exponential_tail}


def p_values(observed: Tensor, null: Tensor, tail: str = "normal") -> Tensor:
    """Return p-values against a null sample: counted ones, with a fitted tail if the sample is large enough.

    The counted value is ``(1 + number of null values >= observed) / (1 + N)``. If observed values come from the null
    distribution, it is at most a with probability at most a, for every a (Davison and Hinkley, 1997, sec. 4.2). It
    cannot fall below 1 / (1 + N) and is coarse above, so a false discovery rate over hundreds of poles would hang on
    the few largest null values. With 800 null values or more, the largest tenth of them is therefore replaced by a
    fitted tail (:func:`sith_hf.decomposition.tail.normal_tail`). The fit is not trusted below 0.01 / (1 + N), the
    smallest value then.

    Args:
        observed: ``[*B, ...]``.
        null: ``[*B, N]``: ``[N]`` for one null, or ``[L, H, N]`` for one of each head.
        tail: ``"normal"``, or ``"exponential"`` for the tail that word rules choose by.

    Returns:
        the shape of ``observed``, float64, above 0 and at most 1.

    Raises:
        InputError: no null values, shapes that do not match, values that are not finite, or an unknown tail.
    """
    batch = null.shape[:-1]
    if tail not in TAILS:
        raise InputError(f"unknown tail {tail!r}; the tails are {', '.join(TAILS)}")
    if null.ndim == 0 or null.shape[-1] == 0 or observed.shape[: len(batch)] != batch:
        raise InputError(
            f"null values [..., N] must match the observed ones; got {[*null.shape]} and {[*observed.shape]}"
        )
    if not (torch.isfinite(observed).all() and torch.isfinite(null).all()):
        raise InputError("observed and null values must be finite")
    ordered = null.double().reshape(-1, null.shape[-1]).sort(dim=-1).values
    asked = observed.double().reshape(len(ordered), -1).contiguous()
    below = torch.searchsorted(ordered, asked, side="left")
    count = null.shape[-1]
    p = (1 + count - below).double() / (1 + count)
    if count >= FEWEST:
        fitted, holds = TAILS[tail](asked, ordered)
        p = torch.where(holds, fitted, p)
    return p.reshape(observed.shape)


def head_p_values(observed: Tensor, null: Tensor) -> Tensor:
    """Return p-values against the random directions of each head, whose shape of distribution is pooled.

    Heads differ in the level and the spread of chance, so each has draws of its own; but a few dozen draws cannot tell
    a small p-value. So a fidelity is counted in standard deviations of its head above the mean of its head, and
    compared with the draws of all heads, counted likewise: each in the standard deviation of the other draws, so that
    it counts as much as a new one. The mean hardly depends on one draw, since draws are orthonormal bases
    (:func:`sith_hf.decomposition.null_directions`).

    Args:
        observed: ``[L, H, ...]``.
        null: ``[L, H, N]``, N at least 3.

    Returns:
        the shape of ``observed``, float64, above 0 and at most 1.

    Raises:
        InputError: as for :func:`p_values`, or fewer than 3 draws.
    """
    if null.ndim != 3 or null.shape[-1] < 3 or observed.shape[:2] != null.shape[:2]:
        raise InputError(
            "null values [L, H, N], with N at least 3, must match the observed ones [L, H, ...]; got "
            f"{[*null.shape]} and {[*observed.shape]}"
        )
    drawn, count = null.double(), null.shape[-1]
    mean = drawn.mean(dim=-1, keepdim=True)
    apart = drawn - mean
    total = apart.square().sum(dim=-1, keepdim=True)
    # Without a draw, the sum of squares falls by apart^2 N / (N - 1).
    others = (total - apart.square() * (count / (count - 1))).clamp(min=0) / (count - 2)
    pooled = apart / _spread(others)
    flat = observed.double().flatten(2)
    return p_values((flat - mean) / _spread(total / (count - 1)), pooled.flatten()).reshape(observed.shape)


def _spread(variance: Tensor) -> Tensor:
    """Return the standard deviation, above what float32 fidelities can resolve."""
    return variance.sqrt().clamp(min=1e-6)


def smallest_p(draws: int) -> float:
    """Return the smallest p-value that :func:`p_values` returns for N null values."""
    return (REACH if draws >= FEWEST else 1.0) / (1 + draws)


def adjusted(p: Tensor) -> Tensor:
    """Return Benjamini-Hochberg adjusted p-values (1995): among values of at most q, the expected false share is q.

    This holds for independent p-values, and for positively dependent ones such as those that share one null sample
    (Bates et al., 2023, "Testing for outliers with conformal p-values", sec. 2).

    Args:
        p: ``[...]``, all p-values of one family.

    Returns:
        the shape of ``p``, float64, at least ``p`` and at most 1.
    """
    flat = p.double().flatten()
    order = flat.argsort(descending=True)
    rank = torch.arange(len(flat), 0, -1, dtype=torch.float64)
    stepped = (flat[order] * len(flat) / rank).clamp(max=1)
    result = torch.empty_like(flat)
    result[order] = torch.cummin(stepped, dim=0).values if len(flat) else stepped
    return result.reshape(p.shape)
