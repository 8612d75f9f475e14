"""``LayerChange``: what an edit adds to the output projection of one layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class LayerChange:
    """The change of the output projection of one layer.

    Attributes:
        heads: head number to the change of its columns of ``out_proj.weight``, ``[D, d]`` float64.
        bias: the change of ``out_proj.bias``, ``[D]`` float64; zero for a projection without one.
    """

    heads: Mapping[int, Tensor]
    bias: Tensor

    def added_to(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return new tensors, as for :meth:`Terms.apply`."""
        changed = weight.clone()
        for head, delta in self.heads.items():
            columns = slice(head * delta.shape[1], (head + 1) * delta.shape[1])
            changed[:, columns] = (weight[:, columns].double() + delta.to(weight.device)).to(weight.dtype)
        if bias is None:
            return changed, None
        return changed, (bias.double() + self.bias.to(bias.device)).to(bias.dtype)
