"""Fidelity and coherence: the quality of explanations (Method, sec. 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sith_hf.core.short_repr import short_repr
from sith_hf.pursuit import Atoms, Pursuit, SparseCode, as_atoms
from sith_hf.towers import Tower


@short_repr
@dataclass(frozen=True, eq=False)
class Quality:
    """The quality of the explanations of some directions (Method, sec. 5).

    Attributes:
        fidelity: ``[...]`` float32, -1 to 1: the cosine between each direction and its reconstruction.
        coherence: ``[...]`` float32: the mean pairwise cosine of the concepts' centred embeddings; 1 for a single one.
    """

    fidelity: Tensor
    coherence: Tensor


def measure_explanations(
    tower: Tower,
    atoms: Tensor,
    directions: Tensor,
    pursuit: Pursuit,
    mean: Tensor | None = None,
    progress: Callable[[int], object] | None = None,
    layer: int | None = None,
) -> Quality:
    """Explain directions and return the quality of the explanations.

    Args:
        tower: the tower of the directions.
        atoms: ``[M, P]`` float32, the dictionary's centred unit rows.
        directions: ``[..., D]`` float64, unit length.
        pursuit: the sparse coder.
        mean: mu, ``[P]``; zero when None.
        progress: called with the number of directions explained since the last call.
        layer: the layer that writes the directions, whose way to the joint space they take; the first when None.

    Raises:
        InputError: as for :class:`sith_hf.pursuit.Pursuit`.
    """
    joint = tower.to_joint(directions, mean, layer).flatten(0, -2).float()
    return quality_of(tower, atoms, directions, pursuit(joint, atoms, progress), mean, layer)


def quality_of(
    tower: Tower,
    atoms: Tensor | Atoms,
    directions: Tensor,
    code: SparseCode,
    mean: Tensor | None = None,
    layer: int | None = None,
) -> Quality:
    """Return the quality of given explanations, of which row n of ``code`` explains the n-th direction."""
    rebuilt = tower.from_joint(code.reconstruct(atoms).double(), mean, layer).reshape(directions.shape)
    # Rounding must not push a cosine beyond 1.
    fidelity = (rebuilt * directions).sum(dim=-1).clamp(-1, 1)
    coherence = mean_cosine(atoms, code).reshape(directions.shape[:-1])
    return Quality(fidelity.to(torch.float32), coherence)


def mean_cosine(atoms: Tensor | Atoms, code: SparseCode) -> Tensor:
    """Return the mean pairwise cosine of each row's concepts of positive weight, ``[N]`` float32; 1 for a single."""
    atoms = as_atoms(atoms)
    present = ((code.index >= 0) & (code.weight > 0)).to(atoms.dtype)
    chosen = normalize(atoms.rows(code.index.clamp(min=0)), dim=-1) * present.unsqueeze(-1)
    count = present.sum(dim=-1)
    pairs = count * (count - 1)
    total = chosen.sum(dim=1).square().sum(dim=-1) - count
    return torch.where(pairs > 0, total / pairs.clamp(min=1), 1.0).to(torch.float32)
