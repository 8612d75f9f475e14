"""The sum of the rank-one terms of one layer (Method, sec. 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class LayerChange:
    """The change of the output projection of one layer.

    Attributes:
        heads: head number to the change of its columns of ``out_proj.weight``, ``[D, d]`` float64.
        bias: the change of ``out_proj.bias``, ``[D]`` float64.
    """

    heads: Mapping[int, Tensor]
    bias: Tensor

    def added_to(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return fresh tensors with the change, rounded once from float64; columns of other heads keep their bytes.

        Args:
            weight: ``[D, D]``, any float dtype.
            bias: ``[D]``, likewise.
        """
        changed = weight.clone()
        for head, delta in self.heads.items():
            columns = slice(head * delta.shape[1], (head + 1) * delta.shape[1])
            changed[:, columns] = (weight[:, columns].double() + delta.to(weight.device)).to(weight.dtype)
        return changed, (bias.double() + self.bias.to(bias.device)).to(bias.dtype)


def layer_change(amount: Tensor, head: Tensor, write: Tensor, row: Tensor, constant: Tensor) -> LayerChange:
    """Sum the terms of a layer.

    Args:
        amount: ``[n]`` float64, gain - 1 of each term.
        head: ``[n]`` int64.
        write: ``[n, D]``.
        row: ``[n, d]``.
        constant: ``[n]``.
    """
    scaled = amount.unsqueeze(-1) * write.double()
    terms = {number: head == number for number in sorted(set(head.tolist()))}
    return LayerChange(
        heads={number: scaled[here].T @ row[here].double() for number, here in terms.items()},
        bias=-(scaled * constant.double().unsqueeze(-1)).sum(dim=0),
    )
