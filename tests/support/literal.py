"""The output projection of an edited layer, by a literal SVD of each head's value-output matrix in float64."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Parts(NamedTuple):
    """The tensors of a layer; ``shift``, the biases and ``scale`` may be None."""

    gain: Tensor
    shift: Tensor | None
    value: Tensor
    value_bias: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    scale: Tensor | None = None


def edited_output(
    parts: Parts, heads: int, spec: Any, layer: int, *, read_centred: bool = True, write_centred: bool = True
) -> tuple[Tensor, Tensor | None]:
    """The weight and bias of the output projection with the gains of ``spec``, float64."""
    gain, shift, value, value_bias, out, out_bias, scale = (None if t is None else t.double() for t in parts)
    assert gain is not None
    assert value is not None
    assert out is not None
    size = out.shape[0]
    d = size // heads
    scale = torch.ones(size).double() if scale is None else scale
    constant = torch.zeros(size).double() if value_bias is None else value_bias
    edited, bias = out.clone(), None if out_bias is None else out_bias.clone()
    fold, centre = spec.settings["fold"], spec.settings["centre"]
    for head in sorted(set(spec.head[spec.layer == layer].tolist())):
        rows = slice(head * d, (head + 1) * d)
        read, write, own = value[rows], scale[:, None] * out[:, rows], constant[rows]
        if fold:
            own = own if shift is None else own + read @ shift
            read = read * gain
        if centre and write_centred:
            write = write - write.mean(0)
        if centre and fold and read_centred:
            read = read - read.mean(1, keepdim=True)
        left = torch.linalg.svd(write @ read, full_matrices=False)[0][:, :d]
        gains = torch.ones(d).double()
        chosen = (spec.layer == layer) & (spec.head == head)
        gains[spec.vector[chosen]] = spec.gain[chosen]
        # The projection on each left vector, as a map of the head's values.
        change = left @ torch.diag(gains - 1) @ left.T @ write
        edited[:, rows] += change / scale[:, None]
        if bias is not None:
            bias -= (change @ own) / scale
    return edited, bias


def singular_values(parts: Parts, heads: int, *, read_centred: bool = True, write_centred: bool = True) -> Tensor:
    """The singular values of each head's folded, centred value-output matrix, ``[H, d]``."""
    size = parts.out.shape[0]
    found = []
    for head in range(heads):
        rows = slice(head * size // heads, (head + 1) * size // heads)
        write = parts.out.double()[:, rows]
        write = write if parts.scale is None else parts.scale.double()[:, None] * write
        matrix = write @ (parts.value.double()[rows] * parts.gain.double())
        matrix = matrix - matrix.mean(0) if write_centred else matrix
        matrix = matrix - matrix.mean(1, keepdim=True) if read_centred else matrix
        found.append(torch.linalg.svdvals(matrix)[: size // heads])
    return torch.stack(found)
