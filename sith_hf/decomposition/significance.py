"""The significance of explanations: random directions as a null, p-values, and false discovery rates.

A large dictionary explains part of any direction, so a fidelity means little by itself. It is compared with the
fidelities of random directions explained in the same way. Two nulls answer two questions:

- ``residual``, the default: is the vector easier to explain than a direction of the residual stream? Directions are
  uniform on the unit sphere of R^D (mean-free when centring).
- ``head``: is it easier to explain than another direction that its head can write? Directions are uniform on the unit
  sphere of the head's write space, the span of its d singular vectors (completed at random for a head below full
  rank). This null is stricter for a head whose whole write space is easy to explain.

Neither depends on the dictionary, the explanations or the singular values. Both are symmetric, so one null serves both
poles of a vector. A decomposition stores the p-values against both, and what chance is (:class:`Significance`); words
are shown by those of ``residual``. ``sith-hf fidelity`` computes either.
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

from sith_hf.core.short_repr import short_repr
from sith_hf.decomposition.p_values import adjusted, head_p_values, p_values
from sith_hf.errors import ArtifactError
from sith_hf.files import require

NULLS = ("residual", "head")

DRAWS, HEAD_DRAWS, SEED = 16_000, 64, 0
"""Random directions of the residual stream, of what each head can write, and their seed."""

LAYER_DRAWS = 4000
"""Random directions of the residual stream for each layer, where each layer has its own way to the joint space."""


@short_repr
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
        p_head: ``[L, H, R, poles]`` float64, the p-value against random directions of the head's own write space; None
            (not known) in a decomposition of an earlier release.
        head_chance: ``[L, H]`` float32, the mean fidelity of those; None if not known.
        head_draws: the number of those, for each head; 0 if not known.
    """

    p: Tensor
    sample: Tensor
    rows: tuple[int, ...]
    null: str = "residual"
    seed: int = SEED
    p_head: Tensor | None = None
    head_chance: Tensor | None = None
    head_draws: int = 0

    @classmethod
    def of(
        cls,
        fidelity: Tensor,
        sample: Tensor,
        rows: Sequence[int],
        seed: int = SEED,
        head_sample: Tensor | None = None,
    ) -> Significance:
        """Compare fidelities ``[L, H, R, poles]`` with those of random directions.

        Args:
            fidelity: the observed ones.
            sample: ``[G, N]``, of the residual stream, one row for each way to the joint space.
            rows: for each layer, its row of ``sample``.
            seed: of the random directions.
            head_sample: ``[L, H, n]``, of each head's write space; not compared when None.
        """
        ordered = sample.sort(dim=-1).values
        p = torch.stack([p_values(each, ordered[row]) for each, row in zip(fidelity, rows, strict=True)])
        if head_sample is None:
            return cls(p, ordered, tuple(rows), seed=seed)
        chance, draws = head_sample.double().mean(dim=-1).float(), head_sample.shape[-1]
        return cls(p, ordered, tuple(rows), "residual", seed, head_p_values(fidelity, head_sample), chance, draws)

    @cached_property
    def q(self) -> Tensor:
        """Benjamini-Hochberg adjusted p-values over all poles of all vectors, ``[L, H, R, poles]`` float64."""
        return adjusted(self.p)

    @property
    def chance(self) -> float:
        """The mean fidelity of the random directions of the residual stream."""
        return float(self.sample.double().mean())

    @cached_property
    def chance_of_layer(self) -> Tensor:
        """The same for the way to the joint space of each layer, ``[L]`` float32."""
        return self.sample.double().mean(dim=-1).float()[list(self.rows)]

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to store; those of heads only where they are known."""
        heads = {"p_head": self.p_head, "head_chance": self.head_chance}
        known = {name: tensor for name, tensor in heads.items() if tensor is not None}
        return {"p_value": self.p, "null_fidelity": self.sample.flatten(), **known}

    def to_json(self) -> dict[str, Any]:
        """Return what is needed to repeat the sample."""
        # The rows are named only where there are several, so that other files keep the bytes of earlier releases.
        rows = {"rows": list(self.rows)} if len(self.sample) > 1 else {}
        heads = {"head_draws": self.head_draws} if self.p_head is not None else {}
        return {"null": self.null, "draws": self.sample.shape[1], "seed": self.seed, **rows, **heads}

    @classmethod
    def from_json(cls, value: Any, tensors: Mapping[str, Tensor], path: Path) -> Significance | None:
        """Read the significance of an artifact; None for one without. Raises ArtifactError for any other data."""
        p, sample = tensors.get("p_value"), tensors.get("null_fidelity")
        p_head, head_chance = tensors.get("p_head"), tensors.get("head_chance")
        if value is None and all(part is None for part in (p, sample, p_head, head_chance)):
            return None
        if p is None or sample is None or not isinstance(value, dict):
            raise ArtifactError(f"{path}: its significance is not whole; make it again, or fetch it again")
        null, seed, draws = value.get("null"), value.get("seed"), value.get("draws", 0)
        rows = value.get("rows", [0] * len(p))
        one_each = isinstance(rows, list) and all(type(row) is int for row in rows) and len(rows) == len(p) > 0
        require(one_each and min(rows) >= 0, path, "its significance does not name the sample of each layer")
        whole = null == "residual" and type(draws) is int and len(sample) == draws * (max(rows) + 1) > 0
        require(whole, path, "its significance has another null")
        head_draws = value.get("head_draws", 0)
        both = type(head_draws) is int and {p_head is None, head_chance is None} == {head_draws == 0}
        require(both and head_draws >= 0, path, "its significance within heads is not whole")
        sample = sample.reshape(max(rows) + 1, draws)
        p_all = p if p_head is None else torch.cat([p, p_head])
        chances = sample if head_chance is None else torch.cat([sample.flatten(), head_chance.flatten()])
        for fits, problem in (
            (type(seed) is int and seed >= 0, "the seed of its significance is no whole number"),
            (((p_all > 0) & (p_all <= 1)).all(), "a p-value is not above 0 and at most 1"),
            ((chances.abs() <= 1 + 1e-3).all(), "a fidelity of a random direction is beyond 1"),
            ((sample[:, 1:] >= sample[:, :-1]).all(), "the fidelities of random directions are not ascending"),
        ):
            require(bool(fits), path, problem)
        return cls(p, sample, tuple(rows), str(null), int(value["seed"]), p_head, head_chance, head_draws)


def null_directions(
    null: str, write: Tensor, draws: int, *, centre: bool = True, generator: torch.Generator | None = None
) -> Tensor:
    """Draw random unit directions of one of the nulls, float64.

    Those of a head are the rows of random orthonormal bases of its write space and their opposites, as its vectors are:
    each is uniform, and together they tell the mean fidelity as well as five times as many independent ones.

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
        size = write.shape[2]
        shape = (*write.shape[:2], -(-draws // (2 * size)), size, size)
        turned, triangle = torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64))
        # With these signs, the turns are uniform.
        turned = turned * triangle.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
        frames = torch.cat([turned, -turned], dim=-2) @ write.double().unsqueeze(2)
        return normalize(frames.flatten(2, 3)[:, :, :draws], dim=-1)
    noise = torch.randn(draws, write.shape[-1], generator=generator, dtype=torch.float64)
    return normalize(noise - noise.mean(dim=-1, keepdim=True) if centre else noise, dim=-1)
