"""The null of explanations: what random directions reach, and p-values and false discovery rates held against it.

A dictionary of many concepts explains something of any direction. So a fidelity says little by itself: it is held
against the fidelities of random directions, explained in the same way. Two questions can be asked, and each has its
own random directions:

- ``residual``: is this vector easier to put into words than any direction of the residual stream? Directions are
  uniform on the unit sphere of R^D (mean-free when centring). This is the chance that a reader means, and the default.
- ``head``: is it easier to put into words than any other direction that its own head could have for a singular
  vector? Directions are uniform on the unit sphere of the head's write space, the span of its singular vectors
  (d of them, whatever the rank kept; completed at random where a head has less than full rank). A head whose whole
  write space is easy to name is better than chance by the first question, and perhaps not by this one, which asks
  for the basis alone. It is the stricter of the two wherever heads write into a nameable part of the stream.

Neither looks at the dictionary, the explanations or the singular values; both are symmetric, so that one null serves
the poles of a vector alike.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sith_hf.core.validation import whole_number
from sith_hf.decomposition import Quality, measure_explanations
from sith_hf.errors import InputError
from sith_hf.pursuit import Pursuit
from sith_hf.towers import VisionTower

NULLS = ("residual", "head")


def null_directions(
    null: str, write: Tensor, draws: int, *, centre: bool = True, generator: torch.Generator | None = None
) -> Tensor:
    """Random unit directions of one of the nulls, float64.

    Args:
        null: a name in ``NULLS``.
        write: ``[L, H, d, D]`` float64, all write directions of each head (their orthonormal rows span what it writes).
        draws: N, how many: for all heads together for ``residual``, for each head for ``head``.
        centre: drop the all-ones direction, as where ``write`` was made with centring. ``head`` needs no telling.
        generator: of the random numbers; the default one of torch when None.

    Returns:
        ``[N, D]`` for ``residual``, ``[L, H, N, D]`` for ``head``.

    Raises:
        InputError: another null, or a number of draws below 1.
    """
    whole_number(draws, "draws", least=1)
    if null not in NULLS:
        raise InputError(f"unknown null {null!r}; the nulls are {', '.join(NULLS)}")
    if null == "head":
        mix = torch.randn(*write.shape[:2], draws, write.shape[2], generator=generator, dtype=torch.float64)
        return normalize(mix @ write.double(), dim=-1)
    noise = torch.randn(draws, write.shape[-1], generator=generator, dtype=torch.float64)
    return normalize(noise - noise.mean(dim=-1, keepdim=True) if centre else noise, dim=-1)


def null_fidelities(
    tower: VisionTower,
    atoms: Tensor,
    pursuit: Pursuit,
    directions: Tensor,
    image_mean: Tensor | None = None,
    progress: Callable[[int], object] | None = None,
) -> Quality:
    """Fidelity and coherence of random directions, explained as the singular vectors are.

    Arguments as for :func:`sith_hf.decomposition.measure_explanations`; ``directions`` are those of
    :func:`null_directions`.
    """
    return measure_explanations(tower, atoms, directions, pursuit, image_mean, progress)


def p_values(observed: Tensor, null: Tensor) -> Tensor:
    """How often chance does as well: ``(1 + number of null values >= observed) / (1 + N)``, never zero.

    Were the observed values drawn as the null ones are, a p-value of at most a would come up with probability at most
    a, for every a (Davison and Hinkley, 1997, sec. 4.2). The smallest that N draws can give is 1 / (1 + N).

    Args:
        observed: ``[*B, ...]``.
        null: ``[*B, N]``, such as ``[N]`` for one null, or ``[L, H, N]`` for one of each head.

    Returns:
        ``observed``'s shape, float64, above 0 and at most 1.

    Raises:
        InputError: no null values, shapes that do not fit, or values that are not finite.
    """
    batch = null.shape[:-1]
    if null.ndim == 0 or null.shape[-1] == 0 or observed.shape[: len(batch)] != batch:
        raise InputError(
            f"null values [..., N] must pair with the observed; got {[*null.shape]} and {[*observed.shape]}"
        )
    if not (torch.isfinite(observed).all() and torch.isfinite(null).all()):
        raise InputError("observed and null values must be finite")
    ordered = null.double().reshape(-1, null.shape[-1]).sort(dim=-1).values
    asked = observed.double().reshape(len(ordered), -1).contiguous()
    below = torch.searchsorted(ordered, asked, side="left")
    count = null.shape[-1]
    return ((1 + count - below).double() / (1 + count)).reshape(observed.shape)


def adjusted(p: Tensor) -> Tensor:
    """Benjamini-Hochberg adjusted p-values (1995): those at most q make up findings whose expected false share is q.

    That holds for p-values that are independent, or that depend on one another positively, as those do
    that share one null sample (Bates et al., 2023, "Testing for outliers with conformal p-values", sec. 2).

    Args:
        p: ``[...]``, all the p-values of one family.

    Returns:
        ``p``'s shape, float64, at least ``p`` and at most 1.
    """
    flat = p.double().flatten()
    order = flat.argsort(descending=True)
    rank = torch.arange(len(flat), 0, -1, dtype=torch.float64)
    stepped = (flat[order] * len(flat) / rank).clamp(max=1)
    result = torch.empty_like(flat)
    result[order] = torch.cummin(stepped, dim=0).values if len(flat) else stepped
    return result.reshape(p.shape)
