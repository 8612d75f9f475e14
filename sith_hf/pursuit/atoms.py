"""``Atoms``: the unit rows that pursuit chooses from, wherever they are kept, read a block at a time.

A dictionary of a million concepts need not be in memory, least of all twice. What pursuit needs of it is narrow:
blocks to score roughly, in order, and a few single rows to decide exactly. A plain tensor, centred embeddings and a
selection of either give both; a file of embeddings does too (:mod:`sith_hf.files.tensor_file`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sith_hf.errors import InputError

READ = 2**21
"""Numbers in one block that is read through: 8 MB in float32, which stays in the processor's cache."""

SAME = 1e-6
"""An embedding this close to the dictionary's mean has no direction of its own."""


class Atoms(Protocol):
    """M unit rows of length P.

    Attributes:
        shape: ``[M, P]``.
        dtype: float32 or float64, of every row and block handed out.
        device: where rows and blocks are handed out.
        slack: the largest Euclidean distance between a row of :meth:`block` and the same row of :meth:`rows`.
        longest: a bound on the length of any row where it is known, None where the rows have to be looked at.
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
        """Rows ``start`` to ``stop``, ``[stop - start, P]``, each within ``slack`` of what :meth:`rows` gives."""

    def rows(self, index: Tensor) -> Tensor:
        """The rows ``index`` int64 of any shape, ``[..., P]``: bit for bit the same whatever else is asked for."""

    def check_unchanged(self) -> None:
        """Raise InputError where what the rows are read from is no longer what was opened."""


@dataclass(frozen=True, eq=False)
class TensorAtoms:
    """Rows of a tensor ``[M, P]``, as they are."""

    tensor: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.tensor.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    slack = 0.0
    longest = None

    def block(self, start: int, stop: int) -> Tensor:
        return self.tensor[start:stop]

    def rows(self, index: Tensor) -> Tensor:
        return self.tensor[index.to(self.tensor.device)]

    def check_unchanged(self) -> None:
        """A tensor in memory is taken to stay what it is."""


@dataclass(frozen=True, eq=False)
class CentredAtoms:
    """Rows of other atoms less a mean, of unit length again, float32 (Method, sec. 3): made as they are asked for.

    ``rows`` are those of :func:`centred`. ``block`` computes in float32 throughout, for speed. Its error, with u the
    unit roundoff of float32: the subtraction is off by u relative to each entry, so by u of the difference's
    length; the length of that by at most (P/2 + 2) u relative in whatever order it is summed; the division by u; and
    the float32 rows that it is compared with by u. Together less than (P + 8) u; ``slack`` is (P + 16) u.

    Attributes:
        embeddings: what is centred, float32 rows.
        mean: ``[P]`` float32.
    """

    embeddings: Atoms
    mean: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.embeddings.shape

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def device(self) -> torch.device:
        return self.embeddings.device

    @property
    def slack(self) -> float:
        return (self.shape[1] + 16) * torch.finfo(torch.float32).eps / 2

    longest = 1 + 2**-20

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
    """A selection of other atoms, numbered anew.

    Attributes:
        all: what is selected from.
        index: ``[S]`` int64 on the CPU, rows of ``all``.
    """

    all: Atoms
    index: Tensor

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

    slack = 0.0

    def block(self, start: int, stop: int) -> Tensor:
        return self.all.rows(self.index[start:stop])

    def rows(self, index: Tensor) -> Tensor:
        return self.all.rows(self.index[index.cpu()])

    def check_unchanged(self) -> None:
        self.all.check_unchanged()


def as_atoms(atoms: Tensor | Atoms) -> Atoms:
    """A tensor as :class:`TensorAtoms`; other atoms as they are."""
    return TensorAtoms(atoms) if isinstance(atoms, Tensor) else atoms


def centred(embeddings: Tensor, mean: Tensor) -> Tensor:
    """Embeddings ``[..., P]`` less the dictionary's mean, unit length again, float32 (Method, sec. 3).

    A row comes out the same to the last bit whichever rows come with it: its length is summed in a fixed order.

    Raises:
        InputError: an embedding equals the mean, so that nothing is left of it.
    """
    difference = embeddings.double() - mean.double()
    length = fixed_order_dot(difference, difference).sqrt().unsqueeze(-1)
    _refuse_mean(length)
    return (difference / length).float()


def fixed_order_dot(left: Tensor, right: Tensor) -> Tensor:
    """Inner products ``[...]`` of rows ``[..., P]``, in an order of additions that depends on the width alone."""
    terms = left * right
    while terms.shape[-1] > 1:
        half = terms.shape[-1] // 2
        folded = terms[..., :half] + terms[..., half : 2 * half]
        if terms.shape[-1] % 2:
            folded[..., 0] += terms[..., -1]
        terms = folded
    return terms.squeeze(-1)


def total(atoms: Atoms) -> Tensor:
    """The sum of all rows, ``[P]`` float64 on the CPU, in an order that does not depend on where they are kept.

    Raises:
        InputError: a row is not finite; the message counts them.
    """
    count, width = atoms.shape
    result = torch.zeros(width, dtype=torch.float64)
    size = max(1, READ // width)
    for start in range(0, count, size):
        result += atoms.block(start, min(start + size, count)).double().sum(dim=0).cpu()
    return result


def _refuse_mean(length: Tensor) -> None:
    if bool((length < SAME).any()):
        raise InputError(
            "a concept's embedding equals the mean of the dictionary; give more, and more different, concepts"
        )


__all__ = ["Atoms", "CentredAtoms", "SomeAtoms", "TensorAtoms", "as_atoms", "centred", "fixed_order_dot", "total"]
