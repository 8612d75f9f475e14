"""Fidelity and coherence of the explanations of some directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sith_hf.decomposition.decompose import mean_cosine
from sith_hf.pursuit import Pursuit, SparseCode
from sith_hf.towers import VisionTower


@dataclass(frozen=True, eq=False)
class Quality:
    """How good the explanations of some directions are (Method, sec. 5).

    Attributes:
        fidelity: ``[...]`` float32, -1 to 1: the cosine between each direction and what its explanation rebuilds.
        coherence: ``[...]`` float32: the mean pairwise cosine of the concepts' centred embeddings, 1 for one alone.
    """

    fidelity: Tensor
    coherence: Tensor


def measure_explanations(
    tower: VisionTower,
    atoms: Tensor,
    directions: Tensor,
    pursuit: Pursuit,
    image_mean: Tensor | None = None,
    progress: Callable[[int], object] | None = None,
) -> Quality:
    """Explain directions and say how well that went; the numbers are those of :func:`sith_hf.decomposition.decompose`.

    Args:
        tower: whose residual stream and joint space they are.
        atoms: ``[M, P]`` float32, the dictionary's centred unit rows.
        directions: ``[..., D]`` float64, unit length.
        pursuit: the sparse coder.
        image_mean: mu, ``[P]``; zero when None.
        progress: called with the number of directions explained since the last call.

    Raises:
        InputError: as for :class:`sith_hf.pursuit.Pursuit`.
    """
    joint = tower.to_joint(directions, image_mean).flatten(0, -2).float()
    return quality_of(tower, atoms, directions, pursuit(joint, atoms, progress), image_mean)


def quality_of(
    tower: VisionTower, atoms: Tensor, directions: Tensor, code: SparseCode, image_mean: Tensor | None = None
) -> Quality:
    """The quality of explanations that are there already; ``code`` has a row for each direction, in order.

    Arguments as for :func:`measure_explanations`.
    """
    shape = directions.shape[:-1]
    rebuilt = tower.from_joint(code.reconstruct(atoms).double(), image_mean).reshape(directions.shape)
    # What rounding adds must not make an explanation better than perfect.
    fidelity = (rebuilt * directions).sum(dim=-1).clamp(-1, 1)
    coherence = mean_cosine(atoms, code.index, code.weight).reshape(shape)
    return Quality(fidelity.to(torch.float32), coherence.to(torch.float32))
