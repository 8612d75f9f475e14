"""Random directions as a null for explanations, p-values, and false discovery rates.

A large dictionary explains part of any direction, so a fidelity means little by itself. It is compared with the
fidelities of random directions explained in the same way. Two nulls answer two questions:

- ``residual``, the default: is the vector easier to explain than a direction of the residual stream? Directions are
  uniform on the unit sphere of R^D (mean-free when centring).
- ``head``: is it easier to explain than another direction that its head can write? Directions are uniform on the unit
  sphere of the head's write space, the span of its d singular vectors (completed at random for a head below full
  rank). This null is stricter for a head whose whole write space is easy to explain.

Neither depends on the dictionary, the explanations or the singular values. Both are symmetric, so one null serves both
poles of a vector.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sith_hf.errors import InputError

NULLS = ("residual", "head")


def null_directions(
    null: str, write: Tensor, draws: int, *, centre: bool = True, generator: torch.Generator | None = None
) -> Tensor:
    """Draw random unit directions of one of the nulls, float64.

    Args:
        null: a name in ``NULLS``.
        write: ``[L, H, d, D]`` float64, all write directions of each head, orthonormal rows.
        draws: N, for all heads together with ``residual``, for each head with ``head``.
        centre: drop the all-ones direction; only for ``residual``, since ``write`` decides for ``head``.
        generator: of random numbers; torch's default when None.

    Returns:
        ``[N, D]`` for ``residual``, ``[L, H, N, D]`` for ``head``.
    """
    if null == "head":
        mix = torch.randn(*write.shape[:2], draws, write.shape[2], generator=generator, dtype=torch.float64)
        return normalize(mix @ write.double(), dim=-1)
    noise = torch.randn(draws, write.shape[-1], generator=generator, dtype=torch.float64)
    return normalize(noise - noise.mean(dim=-1, keepdim=True) if centre else noise, dim=-1)


def p_values(observed: Tensor, null: Tensor) -> Tensor:
    """Return p-values against a null sample, ``(1 + number of null values >= observed) / (1 + N)``.

    If observed values come from the null distribution, a p-value is at most a with probability at most a, for every a
    (Davison and Hinkley, 1997, sec. 4.2). The smallest value with N draws is 1 / (1 + N).

    Args:
        observed: ``[*B, ...]``.
        null: ``[*B, N]``: ``[N]`` for one null, or ``[L, H, N]`` for one of each head.

    Returns:
        the shape of ``observed``, float64, above 0 and at most 1.

    Raises:
        InputError: no null values, shapes that do not match, or values that are not finite.
    """
    batch = null.shape[:-1]
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
    return ((1 + count - below).double() / (1 + count)).reshape(observed.shape)


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
