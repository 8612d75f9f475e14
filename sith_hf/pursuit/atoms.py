"""``Atoms``: the unit rows that pursuit chooses from, read block by block.

A dictionary of a million concepts need not be in memory: pursuit needs blocks, in order, for approximate scores, and a
few single rows for exact ones. A file of embeddings (:mod:`sith_hf.files.tensor_file`) provides both, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from sith_hf.errors import InputError

# Numbers in one block of a pass over all rows: 8 MB in float32, which fit the processor's cache.
READ = 2**21
# An embedding this close to the dictionary's mean has no direction left after centring.
SAME = 1e-6


class Atoms(Protocol):
    """M unit rows of length P.

    Attributes:
        shape: ``[M, P]``.
        dtype: float32 or float64, of rows and blocks.
        device: of rows and blocks.
        slack: the largest Euclidean distance between a row of :meth:`block` and the same row of :meth:`rows`.
        longest: a bound on the length of any row if known, else None.
    """

    @property
    def shape(self) -> torch.Size: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def slack(self) -> float: ...
    @property
    def longest(self) -> float | None: ...

    def block(self, start: int, stop: int) -> Tensor:
        """Return rows ``start`` to ``stop``, ``[stop - start, P]``, each within ``slack`` of :meth:`rows`."""

    def rows(self, index: Tensor) -> Tensor:
        """Return the rows ``index`` int64 of any shape, ``[..., P]``; the bits of a row do not depend on the others."""

    def check_unchanged(self) -> None:
        """Raise InputError if the source of the rows has changed since it was opened."""


class TensorAtoms:
    """The rows of a tensor ``[M, P]``, which is assumed not to change."""

    slack, longest = 0.0, None

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.shape, self.dtype, self.device = tensor, tensor.shape, tensor.dtype, tensor.device

    def block(self, start: int, stop: int) -> Tensor:
        return self.tensor[start:stop]

    def rows(self, index: Tensor) -> Tensor:
        return self.tensor[index.to(self.device)]

    def check_unchanged(self) -> None:
        pass


class CentredAtoms:
    """Rows of other atoms minus a mean, normalised again, float32 (Method, sec. 3), computed when they are read.

    ``rows`` are those of :func:`centred`. ``block`` computes in float32, for speed. Its error, with u the unit roundoff
    of float32: u for the subtraction, relative to the length of the difference; at most (P/2 + 2) u for that length,
    summed in any order; u for the division; and u for the float32 rows in comparison. Together less than (P + 8) u;
    ``slack`` is (P + 16) u.
    """

    dtype, longest = torch.float32, 1 + 2**-20

    def __init__(self, embeddings: Atoms, mean: Tensor) -> None:
        """Centre rows when they are read.

        Args:
            embeddings: the rows to centre, float32.
            mean: ``[P]`` float32.
        """
        self.embeddings, self.mean, self.shape, self.device = embeddings, mean, embeddings.shape, embeddings.device
        self.slack = (self.shape[1] + 16) * torch.finfo(torch.float32).eps / 2

    def block(self, start: int, stop: int) -> Tensor:
        difference = self.embeddings.block(start, stop) - self.mean
        length = torch.linalg.vector_norm(difference, dim=-1, keepdim=True)
        _refuse_mean(length)
        return difference.div_(length)

    def rows(self, index: Tensor) -> Tensor:
        return centred(self.embeddings.rows(index), self.mean)

    def check_unchanged(self) -> None:
        self.embeddings.check_unchanged()


class SomeAtoms:
    """The rows ``index`` ``[S]`` int64, on the CPU, of other atoms."""

    slack = 0.0

    def __init__(self, atoms: Atoms, index: Tensor) -> None:
        self.all, self.index, self.longest = atoms, index, atoms.longest
        self.shape, self.dtype, self.device = torch.Size((len(index), atoms.shape[1])), atoms.dtype, atoms.device

    def block(self, start: int, stop: int) -> Tensor:
        return self.all.rows(self.index[start:stop])

    def rows(self, index: Tensor) -> Tensor:
        return self.all.rows(self.index[index.cpu()])

    def check_unchanged(self) -> None:
        self.all.check_unchanged()


def as_atoms(atoms: Tensor | Atoms) -> Atoms:
    """Wrap a tensor in :class:`TensorAtoms`; return other atoms unchanged."""
    return TensorAtoms(atoms) if isinstance(atoms, Tensor) else atoms


def blocks(atoms: Atoms) -> Iterator[Tensor]:
    """Yield all rows in order, in blocks of at most ``READ`` numbers."""
    count, width = atoms.shape
    size = max(1, READ // max(width, 1))
    for start in range(0, count, size):
        yield atoms.block(start, min(start + size, count))


def centred(embeddings: Tensor, mean: Tensor) -> Tensor:
    """Subtract the dictionary's mean from embeddings ``[..., P]`` and normalise, float32 (Method, sec. 3).

    The bits of a row do not depend on the other rows: its length is summed in a fixed order.

    Raises:
        InputError: an embedding equals the mean.
    """
    difference = embeddings.double() - mean.double()
    length = fixed_order_dot(difference, difference).sqrt().unsqueeze(-1)
    _refuse_mean(length)
    return (difference / length).float()


def fixed_order_dot(left: Tensor, right: Tensor) -> Tensor:
    """Return inner products ``[...]`` of rows ``[..., P]``; the order of additions depends on P only."""
    terms = left * right
    while terms.shape[-1] > 1:
        half = terms.shape[-1] // 2
        folded = terms[..., :half] + terms[..., half : 2 * half]
        if terms.shape[-1] % 2:
            folded[..., 0] += terms[..., -1]
        terms = folded
    return terms.squeeze(-1)


def total(atoms: Atoms) -> Tensor:
    """Return the sum of all rows, ``[P]`` float64 on the CPU, in an order that does not depend on their storage."""
    result = torch.zeros(atoms.shape[1], dtype=torch.float64)
    for block in blocks(atoms):
        result += block.double().sum(dim=0).cpu()
    return result


def _refuse_mean(length: Tensor) -> None:
    same = length < SAME
    if bool(same.all()):
        raise InputError(
            "all concepts have the same embedding: give several with different meanings, and check that the tokenizer "
            "belongs to the text tower and writes its end token"
        )
    if bool(same.any()):
        raise InputError(
            "a concept's embedding equals the mean of the dictionary: give more concepts with different meanings"
        )
