"""The significance of explanations: random directions as a null, p-values, and false discovery rates.

A large dictionary explains part of any direction, so a fidelity means little by itself. It is compared with the
fidelities of random directions explained in the same way. Two nulls answer two questions:

- ``residual``, the default: is the vector easier to explain than a direction of the residual stream? Directions are
  uniform on the unit sphere of R^D (mean-free when centring).
- ``head``: is it easier to explain than another direction that its head can write? Directions are uniform on the unit
  sphere of the head's write space, the span of its d singular vectors (completed at random for a head below full
  rank). This null is stricter for a head whose whole write space is easy to explain.

Neither depends on the dictionary, the explanations or the singular values. Both are symmetric, so one null serves both
poles of a vector. A decomposition stores the sample of ``residual`` and the p-values against it
(:class:`Significance`); ``sith-hf fidelity`` computes either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sith_hf.errors import ArtifactError, InputError
from sith_hf.files import require

NULLS = ("residual", "head")

DRAWS, SEED = 4000, 0
"""Random directions of a decomposition, and their seed."""

# The share of a null sample that the tail is fitted to, and the fewest values for a fit.
TAIL, FEWEST = 0.05, 40
# The fitted tail is trusted down to this part of the smallest empirical p-value.
REACH = 0.01


@dataclass(frozen=True, eq=False)
class Significance:
    """How a decomposition's fidelities compare with those of random directions.

    Attributes:
        p: ``[L, H, R, poles]`` float64, the p-value of each fidelity (see :func:`p_values`).
        sample: ``[G, N]`` float32, the fidelities of random directions, ascending: chance. There is one row for each
            way to the joint space; CLIP has one.
        rows: for each of the L layers, the row of ``sample`` that it is compared with.
        null: the null of the random directions, ``"residual"``.
        seed: of the random directions.
    """

    p: Tensor
    sample: Tensor
    rows: tuple[int, ...]
    null: str = "residual"
    seed: int = SEED

    @classmethod
    def of(cls, fidelity: Tensor, sample: Tensor, rows: Sequence[int], seed: int = SEED) -> Significance:
        """Compare fidelities ``[L, H, R, poles]`` with those of random directions ``[G, N]``, layer by layer."""
        ordered = sample.sort(dim=-1).values
        p = torch.stack([p_values(each, ordered[row]) for each, row in zip(fidelity, rows, strict=True)])
        return cls(p, ordered, tuple(rows), seed=seed)

    @cached_property
    def q(self) -> Tensor:
        """Benjamini-Hochberg adjusted p-values over all poles of all vectors, ``[L, H, R, poles]`` float64."""
        return adjusted(self.p)

    @property
    def chance(self) -> float:
        """The mean fidelity of the random directions."""
        return float(self.sample.double().mean())

    def to_json(self) -> dict[str, Any]:
        """Return what is needed to repeat the sample."""
        # The rows are named only where there are several, so that other files keep the bytes of earlier releases.
        rows = {"rows": list(self.rows)} if len(self.sample) > 1 else {}
        return {"null": self.null, "draws": self.sample.shape[1], "seed": self.seed, **rows}

    @classmethod
    def from_json(cls, value: Any, tensors: Mapping[str, Tensor], path: Path) -> Significance | None:
        """Read the significance of an artifact; None for one without. Raises ArtifactError for any other data."""
        p, sample = tensors.get("p_value"), tensors.get("null_fidelity")
        if value is None and p is None and sample is None:
            return None
        if p is None or sample is None or not isinstance(value, dict):
            raise ArtifactError(f"{path}: its significance is not whole; make it again, or fetch it again")
        null, seed, draws = value.get("null"), value.get("seed"), value.get("draws", 0)
        rows = value.get("rows", [0] * len(p))
        one_each = isinstance(rows, list) and all(type(row) is int for row in rows) and len(rows) == len(p) > 0
        require(one_each and min(rows) >= 0, path, "its significance does not name the sample of each layer")
        whole = null == "residual" and type(draws) is int and len(sample) == draws * (max(rows) + 1) > 0
        require(whole, path, "its significance has another null")
        sample = sample.reshape(max(rows) + 1, draws)
        for fits, problem in (
            (type(seed) is int and seed >= 0, "the seed of its significance is no whole number"),
            (((p > 0) & (p <= 1)).all(), "a p-value is not above 0 and at most 1"),
            ((sample.abs() <= 1 + 1e-3).all(), "a fidelity of a random direction is beyond 1"),
            ((sample[:, 1:] >= sample[:, :-1]).all(), "the fidelities of random directions are not ascending"),
        ):
            require(bool(fits), path, problem)
        return cls(p, sample, tuple(rows), str(null), int(value["seed"]))


def null_directions(
    null: str, write: Tensor, draws: int, *, centre: bool = True, generator: torch.Generator | None = None
) -> Tensor:
    """Draw random unit directions of one of the nulls, float64.

    Args:
        null: a name in ``NULLS``.
        write: ``[L, H, d, D]`` float64, all write directions of each head, orthonormal rows; for ``residual`` only D
            matters.
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
    """Return p-values against a null sample: empirical ones, with a fitted tail if the sample is large enough.

    The empirical value is ``(1 + number of null values >= observed) / (1 + N)``. If observed values come from the null
    distribution, it is at most a with probability at most a, for every a (Davison and Hinkley, 1997, sec. 4.2). It
    cannot fall below 1 / (1 + N), so a false discovery rate over hundreds of poles would hang on the few largest null
    values. With 800 null values or more, the largest twentieth of them is therefore replaced by an exponential tail of
    the same mean: the generalised Pareto tail of shape 0 (Knijnenburg et al., 2009, "Fewer permutations, more accurate
    P-values", with a free shape). Cosines have lighter tails, so these p-values are too large rather than too small: a
    free shape made one in 2,000 values of normal samples seem one in 10,000. The fit is not trusted below
    0.01 / (1 + N), the smallest value then.

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
    p = (1 + count - below).double() / (1 + count)
    return _with_tail(p, asked, ordered).reshape(observed.shape)


def smallest_p(draws: int) -> float:
    """Return the smallest p-value that :func:`p_values` returns for N null values."""
    return (REACH if int(TAIL * draws) >= FEWEST else 1.0) / (1 + draws)


def _with_tail(p: Tensor, asked: Tensor, ordered: Tensor) -> Tensor:
    """Replace the p-values of values in the largest part of a sample by those of a fitted tail; all ``[B, ...]``."""
    count = ordered.shape[-1]
    above = int(TAIL * count)
    if above < FEWEST:
        return p
    start = ordered[:, count - above - 1 : count - above]
    scale = (ordered[:, count - above :] - start).mean(dim=-1, keepdim=True)
    fitted = (1 + above) / (1 + count) * torch.exp(-(asked - start) / scale.clamp(min=torch.finfo(torch.float64).tiny))
    # A tail of ties has no scale.
    return torch.where((scale > 0) & (asked > start), fitted.clamp(min=REACH / (1 + count)), p)


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
