"""``Atoms``: the unit rows that pursuit chooses from, read block by block.

A dictionary of a million concepts need not be in memory. Pursuit needs blocks for approximate scores, in order, and a
few single rows for exact ones. A tensor, centred embeddings, a selection and a file of embeddings
(:mod:`sith_hf.files.tensor_file`) provide both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sith_hf.errors import InputError

READ = 2**21
"""Numbers in one block of a pass over all rows: 8 MB in float32, which fit the processor's cache."""

SAME = 1e-6
"""An embedding this close to the dictionary's mean has no direction left after centring."""


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


@dataclass(frozen=True, eq=False)
class TensorAtoms:
    """The rows of a tensor ``[M, P]``."""

    tensor: Tensor
    slack = 0.0
    longest = None

    @property
    def shape(self) -> torch.Size:
        return self.tensor.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def block(self, start: int, stop: int) -> Tensor:
        return self.tensor[start:stop]

    def rows(self, index: Tensor) -> Tensor:
        return self.tensor[index.to(self.tensor.device)]

    def check_unchanged(self) -> None:
        """Do nothing: a tensor in memory is assumed not to change."""


@dataclass(frozen=True, eq=False)
class CentredAtoms:
    """Rows of other atoms minus a mean, normalised again, float32 (Method, sec. 3), computed when they are read.

    ``rows`` are those of :func:`centred`. ``block`` computes in float32, for speed. Its error, with u the unit roundoff
    of float32: u for the subtraction, relative to the length of the difference; at most (P/2 + 2) u for that length,
    summed in any order; u for the division; and u for the float32 rows in comparison. Together less than (P + 8) u;
    ``slack`` is (P + 16) u.

    Attributes:
        embeddings: the rows to centre, float32.
        mean: ``[P]`` float32.
    """

    embeddings: Atoms
    mean: Tensor
    dtype = torch.float32
    longest = 1 + 2**-20

    @property
    def shape(self) -> torch.Size:
        return self.embeddings.shape

    @property
    def device(self) -> torch.device:
        return self.embeddings.device

    @property
    def slack(self) -> float:
        return (self.shape[1] + 16) * torch.finfo(torch.float32).eps / 2

    def block(self, start: int, stop: int) -> Tensor:
        difference = self.embeddings.block(start, stop) - self.mean
        length = torch.linalg.vector_norm(difference, dim=-1, keepdim=True)
        _refuse_mean(length)
        return difference.div_(length)

    def rows(self, index: Tensor) -> Tensor:
        return centred(self.embeddings.rows(index), self.mean)

    def check_unchanged(self) -> None:
        self.embeddings.check_unchanged()


@dataclass(frozen=True, eq=False)
class SomeAtoms:
    """A selection of other atoms.

    Attributes:
        all: the original atoms.
        index: ``[S]`` int64 on the CPU, rows of ``all``.
    """

    all: Atoms
    index: Tensor
    slack = 0.0

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.index), self.all.shape[1]))

    @property
    def dtype(self) -> torch.dtype:
        return self.all.dtype

    @property
    def device(self) -> torch.device:
        return self.all.device

    @property
    def longest(self) -> float | None:
        return self.all.longest

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
    if bool((length < SAME).any()):
        raise InputError(
            "a concept's embedding equals the mean of the dictionary: give more concepts with different meanings"
        )
