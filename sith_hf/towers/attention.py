"""``AttentionLayer``: the tensors of one attention layer, and its heads' value-output matrices as thin products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sith_hf.core.fingerprint import tensor_sha256
from sith_hf.core.short_repr import short_repr
from sith_hf.errors import UnsupportedModel
from sith_hf.towers.readout import Readout


@short_repr
@dataclass(frozen=True, eq=False)
class HeadFactors:
    """The value-output matrices of a layer's H heads as thin products ``write[h] @ read[h]`` (Method, sec. 1).

    Attributes:
        write: B, ``[H, D, d]``.
        read: A, ``[H, d, D]``.
        constant: ``[H, d]``, the part of the values that does not depend on the input; edits keep its output.
    """

    write: Tensor
    read: Tensor
    constant: Tensor


@short_repr
@dataclass(frozen=True, eq=False)
class AttentionLayer:
    """The tensors of one attention layer that decomposing and editing read; references into the model, read-only.

    Attributes:
        norm_weight: the gain of the norm before the values, ``[D]``.
        norm_bias: its offset, ``[D]``; None if it has none.
        value_weight, value_bias: the value projection, ``[D, D]`` with rows grouped by head, and ``[D]`` or None.
        out_weight, out_bias: the output projection, ``[D, D]`` with columns grouped by head, and ``[D]`` or None.
        scale: the layer scale that multiplies the output, ``[D]``; None without one.
        readout: the way of what the layer writes to the joint space; None if no text is compared with it.
        read_centred: whether the norm before the values removes the mean (a layer norm; an RMS norm does not).
        write_centred: whether every reader of what the layer writes removes the mean.
        names: for each attribute that is a tensor, its name on disk. Two of them may be parts of one tensor.
        whole: the tensors on disk of which attributes are parts, by name on disk.
        title: what the layer is if it is no layer of the encoder, such as ``"pool"``.
    """

    norm_weight: Tensor
    norm_bias: Tensor | None
    value_weight: Tensor
    value_bias: Tensor | None
    out_weight: Tensor
    out_bias: Tensor | None
    readout: Readout | None
    names: Mapping[str, str]
    scale: Tensor | None = None
    read_centred: bool = True
    write_centred: bool = True
    whole: Mapping[str, Tensor] = field(default_factory=dict)
    title: str = ""

    def factors(
        self, num_heads: int, *, fold: bool = True, centre: bool = True, dtype: torch.dtype = torch.float64
    ) -> HeadFactors:
        """Return the heads' factors in new tensors (Method, sec. 1).

        Args:
            num_heads: H.
            fold: multiply the norm's gain into the read side, and its offset into the constant.
            centre: drop the all-ones direction, which every layer norm removes: from the write side, and with
                ``fold`` also from the read side. Sides without a layer norm keep it.
            dtype: of the result.
        """
        size = self.out_weight.shape[0]
        head_size = size // num_heads
        read = self.value_weight.to(dtype).reshape(num_heads, head_size, size)
        write = self.out_weight.to(dtype)
        if self.scale is not None:
            write = write * self.scale.to(dtype).unsqueeze(-1)
        write = write.reshape(size, num_heads, head_size).permute(1, 0, 2)
        constant = read.new_zeros(size) if self.value_bias is None else self.value_bias.to(dtype)
        constant = constant.reshape(num_heads, head_size)
        if fold:
            if self.norm_bias is not None:
                constant = constant + read @ self.norm_bias.to(dtype)
            read = read * self.norm_weight.to(dtype)
        if centre and self.write_centred:
            write = write - write.mean(dim=1, keepdim=True)
        if centre and fold and self.read_centred:
            read = read - read.mean(dim=2, keepdim=True)
        return HeadFactors(write=write, read=read, constant=constant)

    def columns(self, directions: Tensor) -> Tensor:
        """Return what the output projection has to write so that the layer writes ``directions``, ``[..., D]``.

        Raises:
            UnsupportedModel: the layer scale has a zero, so not every direction can be written.
        """
        if self.scale is None:
            return directions
        if not bool((self.scale != 0).all()):
            raise UnsupportedModel(
                f"{self.names['scale']} has zeros: the layer cannot write along them, so an edit of it cannot be "
                "written into the output projection; leave this layer out"
            )
        return directions / self.scale.to(directions)

    @property
    def outputs(self) -> tuple[str, str | None]:
        """The names on disk of the output projection's weight and bias, which an edit changes."""
        return self.names["out_weight"], self.names.get("out_bias")

    def sha256(self) -> dict[str, str]:
        """Return fingerprints of the layer's tensors by name on disk."""
        found = {name: self.whole.get(name, getattr(self, part)) for part, name in self.names.items()}
        return {name: tensor_sha256(tensor) for name, tensor in found.items()}
