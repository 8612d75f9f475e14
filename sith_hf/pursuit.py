"""Sparse non-negative coding of vectors over a dictionary of unit atoms: COMP and the methods it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sith_hf.checks import finite_number, whole_number
from sith_hf.coders import METHODS
from sith_hf.errors import InputError
from sith_hf.search import AtomSearch

ROWS = 1024
"""Vectors coded at once: enough to keep a matrix product busy, few enough to bound what is held beside it."""

CHOSEN = 2**24
"""Numbers in the chosen atoms of those vectors (128 MB): long explanations are coded fewer at a time."""

UNIT = 1e-2
"""How far an atom's length may be from one; what rounding to bfloat16 does is well inside."""


@dataclass(frozen=True)
class SparseCode:
    """The atoms that make up each of N vectors, and how much of each.

    Rows are sorted by descending weight, equal weights by lowest index, padding last. A chosen atom may have a weight
    of exactly zero: COMP takes K atoms for their coherence too, and the refit decides what they contribute.
    Only padding has the index -1.

    Attributes:
        index: ``[N, K]`` int64, rows of the dictionary, different ones in each row; -1 where there are fewer than K.
        weight: ``[N, K]`` of the vectors' dtype, >= 0; 0 where padded.
    """

    index: Tensor
    weight: Tensor

    def reconstruct(self, atoms: Tensor) -> Tensor:
        """The weighted sums of atoms, ``[N, P]`` in the atoms' dtype.

        Args:
            atoms: ``[M, P]``, the dictionary that was coded over.

        Raises:
            InputError: the dictionary has fewer atoms than the code speaks of.
        """
        if atoms.ndim != 2 or (self.index.numel() > 0 and int(self.index.max()) >= len(atoms)):
            raise InputError(f"the code speaks of atom {int(self.index.max())}; the dictionary is {list(atoms.shape)}")
        total = atoms.new_zeros(len(self.index), atoms.shape[1])
        if len(atoms) == 0:
            return total
        for index, weight in zip(self.index.T, self.weight.to(atoms.dtype).T, strict=True):
            total += weight.unsqueeze(1) * atoms[index.clamp(min=0)]
        return total


@dataclass(frozen=True)
class Pursuit:
    """A sparse coder: which method, and with what settings. Call it on vectors and a dictionary.

    Example::

        atoms = torch.nn.functional.normalize(torch.randn(5000, 64), dim=1)
        code = Pursuit(sparsity=3)(torch.randn(10, 64), atoms)
        code.index                 # [10, 3] int64
        code.reconstruct(atoms)    # [10, 64]
    """

    method: str = "comp"
    """A name in ``METHODS``: comp, omp, mp, top-k or lasso."""

    sparsity: int = 5
    """K, the number of atoms in an explanation (for mp and lasso, the largest number)."""

    coherence_weight: float = 0.3
    """lambda, how much atoms are preferred that resemble those already chosen. Only comp reads it."""

    block_size: int | None = None
    """Atoms in one matrix product; chosen from the number of vectors when None. It never changes the result."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"unknown method {self.method!r}; the methods are {', '.join(METHODS)}")
        whole_number(self.sparsity, "sparsity", least=1)
        if self.block_size is not None:
            whole_number(self.block_size, "block_size", least=1)
        if finite_number(self.coherence_weight, "coherence_weight") < 0:
            raise InputError(f"coherence_weight is at least 0; got {self.coherence_weight}")

    @property
    def title(self) -> str:
        """The method's name in full, as a card or a table shows it."""
        return METHODS[self.method].title

    @property
    def source(self) -> str:
        """Where the method is described."""
        return METHODS[self.method].source

    def __call__(self, x: Tensor, atoms: Tensor, progress: Callable[[int], object] | None = None) -> SparseCode:
        """Code every row of ``x`` over ``atoms``.

        Rows of ``x`` are brought to unit length first, and the weights scaled back: ``c * x`` with c > 0 gets the
        atoms of ``x``, and c times its weights, although the coherence term is not homogeneous.

        Matrix products run in the dtype of ``x``; choices, refits and residuals in float64. The atoms are
        those of a float64 pursuit over the same dictionary, with scores within 1e-12 of each other
        counted as equal and won by the lowest index, for every block size, batch size and device.

        Args:
            x: ``[N, P]`` float32 or float64. N may be 0.
            atoms: ``[M, P]`` unit rows, of the dtype and on the device of ``x``; M >= K.
            progress: called now and then with the number of vectors finished since the last call (``tqdm.update``).

        Raises:
            InputError: shapes, dtypes or devices do not fit, there are fewer atoms than K, a row of ``x`` is zero,
                an atom does not have unit length, or an entry is not finite.
            MissingExtra: lasso without scikit-learn.
        """
        longest = _check(x, atoms, self.sparsity)
        search = AtomSearch(atoms, longest, self.block_size)
        size = max(1, min(ROWS, CHOSEN // (self.sparsity * x.shape[1])))
        parts = []
        with torch.no_grad():
            for start in range(0, max(len(x), 1), size):
                parts.append(self._code(x[start : start + size], search))
                if progress is not None:
                    progress(len(parts[-1].index))
        return SparseCode(torch.cat([part.index for part in parts]), torch.cat([part.weight for part in parts]))

    def _code(self, x: Tensor, search: AtomSearch) -> SparseCode:
        if len(x) == 0:
            return SparseCode(x.new_empty(0, self.sparsity, dtype=torch.long), x.new_empty(0, self.sparsity))
        exact = x.double()
        # In two steps, so that squaring neither overflows nor loses a very small vector.
        peak = exact.abs().amax(1, keepdim=True)
        exact = exact / peak
        length = torch.linalg.vector_norm(exact, dim=1, keepdim=True)
        index, weight = METHODS[self.method].run(exact / length, search, self.sparsity, self.coherence_weight)
        return _sorted(index, (weight * length * peak).to(x.dtype))


def _sorted(index: Tensor, weight: Tensor) -> SparseCode:
    # By index first, padding last, so that a stable sort by weight leaves equal weights in that order.
    order = torch.where(index < 0, torch.iinfo(torch.long).max, index).argsort(dim=1)
    index, weight = index.gather(1, order), weight.gather(1, order)
    order = weight.argsort(dim=1, descending=True, stable=True)
    return SparseCode(index.gather(1, order), weight.gather(1, order))


def _check(x: Tensor, atoms: Tensor, sparsity: int) -> float:
    """Refuse what cannot be coded; the length of the longest atom."""
    if x.ndim != 2 or atoms.ndim != 2 or x.shape[1] != atoms.shape[1]:
        raise InputError(f"expected vectors [N, P] and atoms [M, P], got {list(x.shape)} and {list(atoms.shape)}")
    if x.dtype != atoms.dtype or x.dtype not in (torch.float32, torch.float64):
        raise InputError(f"vectors and atoms must both be float32 or both float64, got {x.dtype} and {atoms.dtype}")
    if x.device != atoms.device:
        raise InputError(f"vectors and atoms must be on one device, got {x.device} and {atoms.device}")
    if len(atoms) < sparsity:
        raise InputError(f"an explanation of {sparsity} atoms needs a dictionary of at least as many, got {len(atoms)}")
    _refuse_rows("x", ~torch.isfinite(x).all(1), "is not finite")
    _refuse_rows("x", (x == 0).all(1), "is zero, and a zero vector has no direction to explain")
    length = torch.linalg.vector_norm(atoms.detach(), dim=1)
    _refuse_rows("atoms", ~torch.isfinite(length), "is not finite")
    _refuse_rows("atoms", (length - 1).abs() > UNIT, "does not have unit length; normalise the dictionary first")
    return float(length.max())


def _refuse_rows(name: str, bad: Tensor, what: str) -> None:
    if bool(bad.any()):
        raise InputError(f"{name}[{int(bad.int().argmax())}] {what} ({int(bad.sum())} of {len(bad)} rows)")
