"""``HeadSVD``: the singular value decomposition of each head's value-output matrix, from its two thin factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sith_hf.core.short_repr import short_repr
from sith_hf.errors import InputError


@short_repr
@dataclass(frozen=True, eq=False)
class HeadSVD:
    """The leading singular triples of the value-output matrices of H heads (SITH; Method, sec. 2).

    For each head h, with ``M[h]`` its value-output matrix and R = d, up to rounding::

        M[h] == write[h].T @ torch.diag(values[h]) @ read[h]
        write[h] @ write[h].T == read[h] @ read[h].T == I

    Rows are directions: ``write[h, i]`` is written to the residual stream when the input contains ``read[h, i]``.
    The entry of largest magnitude of every read direction is positive.

    Attributes:
        write: ``[H, R, D]``, orthonormal rows (the paper's right singular vectors).
        values: ``[H, R]``, non-negative, descending.
        read: ``[H, R, D]``, orthonormal rows (the paper's left singular vectors).
    """

    write: Tensor
    values: Tensor
    read: Tensor

    def matrix(self) -> Tensor:
        """Return the value-output matrices, ``[H, D, D]``: large tensors, for tests and small towers."""
        return self.write.mT @ (self.values.unsqueeze(-1) * self.read)


def factored_svd(write_factor: Tensor, read_factor: Tensor) -> HeadSVD:
    """Decompose ``M[h] = write_factor[h] @ read_factor[h]`` without forming a D x D matrix.

    Both factors are reduced by QR, and only the d x d core between the two bases is decomposed (Method, sec. 2).
    Directions of zero singular values are an arbitrary orthonormal completion.

    Args:
        write_factor: B, ``[H, D, d]``, float32 or float64: the output side of each head.
        read_factor: A, ``[H, d, D]``, same dtype: the input side of each head.

    Raises:
        InputError: mismatched shapes, another dtype, or entries that are not finite.
    """
    if write_factor.ndim != 3 or read_factor.shape != write_factor.mT.shape:
        raise InputError(
            "the factors of a value-output matrix must have shapes [H, D, d] and [H, d, D]; "
            f"got {list(write_factor.shape)} and {list(read_factor.shape)}"
        )
    if write_factor.dtype != read_factor.dtype or write_factor.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"the factors must both be float32 or both float64; "
            f"got {write_factor.dtype} and {read_factor.dtype}: cast them first"
        )
    size, head_size = write_factor.shape[1:]
    if head_size > size:
        raise InputError(
            f"a head of size {head_size} is wider than the residual stream of size {size}: swap the factors"
        )
    if not (torch.isfinite(write_factor).all() and torch.isfinite(read_factor).all()):
        raise InputError("a value or output projection holds NaN or infinity; download the checkpoint again")

    write_basis, write_core = torch.linalg.qr(write_factor)
    read_basis, read_core = torch.linalg.qr(read_factor.mT)
    left, values, right = torch.linalg.svd(write_core @ read_core.mT)
    write, read = (write_basis @ left).mT, (read_basis @ right.mT).mT

    # A pair is defined up to a common sign; a fixed choice makes results reproducible (Method, sec. 2).
    largest = read.gather(-1, read.abs().argmax(dim=-1, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0).to(read.dtype)
    return HeadSVD(write=(write * sign).contiguous(), values=values, read=(read * sign).contiguous())
