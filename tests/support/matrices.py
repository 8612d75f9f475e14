"""Towers of one layer whose heads have given value-output matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from sith_hf.towers import AttentionLayer, Tower


def orthonormal(rows: int, size: int, seed: int) -> Tensor:
    """Random orthonormal rows, ``[rows, size]`` float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, rows, generator=generator, dtype=torch.float64)).Q.T


def tower_of(*matrices: Tensor, dtype: torch.dtype = torch.float64) -> Tower:
    """A tower without centring whose heads have these matrices, each ``[D, D]`` of rank at most D / H."""
    size, heads = matrices[0].shape[0], len(matrices)
    d = size // heads
    value, out = torch.zeros(size, size, dtype=dtype), torch.zeros(size, size, dtype=dtype)
    for head, matrix in enumerate(matrices):
        left, values, right = torch.linalg.svd(matrix.double())
        rows = slice(head * d, (head + 1) * d)
        value[rows] = values[:d, None] * right[:d]
        out[:, rows] = left[:, :d]
    layer = AttentionLayer(
        norm_weight=torch.ones(size, dtype=dtype),
        norm_bias=None,
        value_weight=value,
        value_bias=None,
        out_weight=out,
        out_bias=None,
        readout=None,
        names={"value_weight": "v", "out_weight": "o"},
        read_centred=False,
        write_centred=False,
    )
    return Tower(num_heads=heads, layers=(layer,))
