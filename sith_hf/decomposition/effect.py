"""``Effect``: how the explained directions of a tower reach the joint space, directly or through later layers too."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sith_hf.decomposition.quality import Quality, mean_cosine, quality_of
from sith_hf.decomposition.settings import DecomposeSettings
from sith_hf.decomposition.total_effect import TotalEffect
from sith_hf.errors import InputError
from sith_hf.pursuit import Atoms, SparseCode
from sith_hf.towers import Tower


@dataclass(frozen=True, eq=False)
class Effect:
    """The map p of explained directions, or p plus a Jacobian (Method, sec. 3 and 9), with what measures its codes.

    Attributes:
        tower: the tower.
        settings: the side, the effect and the image mean.
        total: the measured Jacobians; None for the direct effect.
    """

    tower: Tower
    settings: DecomposeSettings
    total: TotalEffect | None = None

    def __post_init__(self) -> None:
        if (self.settings.effect == "total") != (self.total is not None):
            raise InputError(
                'effect="total" needs a measured total effect, and effect="direct" takes none: use '
                "SithEditor.decompose, which measures it, or pass total=measure_total_effect(...)"
            )

    def at(self, layer: int) -> int:
        """Return the layer whose way to the joint space the explained directions of ``layer`` take."""
        return layer if self.settings.side == "write" else self.tower.written_at(layer)

    def way(self, layer: int) -> Hashable:
        """Return what is equal for layers whose directions are mapped in the same way."""
        return id(self.tower.readout(self.at(layer))) if self.total is None else layer

    def to_joint(self, directions: Tensor, layer: int) -> Tensor:
        """Map directions ``[..., D]`` of a layer to unit vectors ``[..., P]`` of the same dtype."""
        mean = self.settings.image_mean
        if self.total is None:
            return self.tower.to_joint(directions, mean, self.at(layer))
        return self.total.to_joint(self.tower, directions, layer, mean)

    def quality(self, atoms: Tensor | Atoms, directions: Tensor, code: SparseCode, layer: int) -> Quality:
        """Return the quality of explanations, of which row n of ``code`` explains the n-th direction.

        The direct effect has a way back, so its fidelity is measured in the residual stream (Method, sec. 5). The total
        effect has none: its fidelity is the cosine in the joint space between the explained point and its
        reconstruction.
        """
        if self.total is None:
            return quality_of(self.tower, atoms, directions, code, self.settings.image_mean, self.at(layer))
        rebuilt = normalize(code.reconstruct(atoms).double(), dim=-1).reshape(*directions.shape[:-1], -1)
        fidelity = (rebuilt * self.to_joint(directions, layer).double()).sum(dim=-1).clamp(-1, 1)
        return Quality(fidelity.float(), mean_cosine(atoms, code).reshape(fidelity.shape))

    def ceiling(self, directions: Tensor, layer: int) -> Tensor:
        """Return the highest possible fidelity of directions ``[..., D]``, ``[...]``; 1 in the joint space."""
        if self.total is None:
            return self.tower.readout(self.at(layer)).projected_norm(directions)
        return torch.ones_like(directions[..., 0])
