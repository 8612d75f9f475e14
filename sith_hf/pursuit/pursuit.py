"""``Pursuit``: sparse non-negative coding of vectors over a dictionary, by COMP or one of four other methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sith_hf.core.short_repr import short_repr
from sith_hf.core.validation import did_you_mean, finite_number, whole_number
from sith_hf.errors import InputError, TemporaryError
from sith_hf.pursuit.atoms import READ, Atoms, as_atoms
from sith_hf.pursuit.index import DictionaryIndex, build_index, out_of_memory, refuse_rows, worth_rounding
from sith_hf.pursuit.int8 import BLOCK, HELD_BYTES, round_up
from sith_hf.pursuit.methods import METHODS
from sith_hf.pursuit.search import PAIRS, SCORES, AtomSearch, scores_on

# Vectors coded at once: enough for an efficient matrix product, few enough to bound the memory beside it.
ROWS = 1024
# Numbers in the chosen atoms of those vectors (128 MB in float64); longer explanations get smaller batches.
CHOSEN = 2**24
# The fewest vectors coded at once when memory is short.
LEAST_ROWS = 32
# The fewest scores in one block when memory is short.
LEAST_SCORES = 2**15


@short_repr
@dataclass(frozen=True)
class SparseCode:
    """The atoms and weights that approximate each of N vectors.

    Rows are sorted by descending weight, then by index, padding last. A chosen atom may have a weight of exactly zero:
    COMP also chooses for coherence, and the refit decides the weights. Only padding has the index -1.

    Attributes:
        index: ``[N, K]`` int64, rows of the dictionary, distinct within a row; -1 for padding.
        weight: ``[N, K]`` of the vectors' dtype, >= 0; 0 for padding.
    """

    index: Tensor
    weight: Tensor

    def reconstruct(self, atoms: Tensor | Atoms) -> Tensor:
        """Return the weighted sums of atoms, ``[N, P]`` in the atoms' dtype.

        Args:
            atoms: ``[M, P]``, the dictionary of this code.

        Raises:
            InputError: an index beyond the dictionary.
        """
        source = as_atoms(atoms)
        if len(source.shape) != 2 or (self.index.numel() > 0 and int(self.index.max()) >= source.shape[0]):
            top, shape = int(self.index.max()), list(source.shape)
            raise InputError(f"the code has index {top}, the dictionary has shape {shape}; use the code's dictionary")
        total = torch.zeros(len(self.index), source.shape[1], dtype=source.dtype, device=self.index.device)
        if source.shape[0] == 0:
            return total
        for index, weight in zip(self.index.T, self.weight.to(source.dtype).T, strict=True):
            total += weight.unsqueeze(1) * source.rows(index.clamp(min=0)).to(total.device)
        return total


@dataclass(frozen=True)
class Pursuit:
    """A sparse coder: a method and its settings. Call it on vectors and a dictionary.

    Example::

        atoms = torch.nn.functional.normalize(torch.randn(5000, 64), dim=1)
        code = Pursuit(sparsity=3)(torch.randn(10, 64), atoms)
        code.index                 # [10, 3] int64
        code.reconstruct(atoms)    # [10, 64]
    """

    method: str = "comp"
    """A name in ``METHODS``: comp, omp, mp, top-k or lasso."""

    sparsity: int = 5
    """K, the number of atoms in an explanation; for mp and lasso the largest number."""

    coherence_weight: float = 0.3
    """lambda, the preference for atoms similar to those already chosen. Used by comp only."""

    block_size: int | None = None
    """Atoms in one matrix product; chosen from the number of vectors when None. The result does not depend on it."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(
                f"unknown method {self.method!r}{did_you_mean(str(self.method), METHODS)}; the methods are "
                f"{', '.join(METHODS)}"
            )
        whole_number(self.sparsity, "sparsity", least=1)
        if self.block_size is not None:
            whole_number(self.block_size, "block_size", least=1)
        if finite_number(self.coherence_weight, "coherence_weight") < 0:
            raise InputError(f"coherence_weight must be at least 0; got {self.coherence_weight}")

    def __call__(
        self, x: Tensor, atoms: Tensor | Atoms | DictionaryIndex, progress: Callable[[int], object] | None = None
    ) -> SparseCode:
        """Code every row of ``x`` over ``atoms``.

        Rows are normalised first and the weights scaled back, so ``c * x`` with c > 0 has the atoms of ``x`` and c
        times its weights, although the coherence term is not homogeneous.

        Matrix products run in the dtype of ``x`` or, for large dictionaries, in int8; choices, refits and residuals in
        float64. For every block size, batch size and device, the chosen atoms are those of a float64 pursuit. Scores
        within 1e-12 of each other tie, and the lowest index wins.

        Args:
            x: ``[N, P]`` float32 or float64. N may be 0.
            atoms: ``[M, P]`` unit rows of the dtype of ``x``, M >= K: a tensor, :class:`~sith_hf.pursuit.Atoms` that
                are read block by block, or for many calls the result of :func:`build_index`. On the device of ``x``
                or on the CPU, from which blocks are copied to that device.
            progress: called with the number of vectors finished since the last call (``tqdm.update``).

        Raises:
            InputError: mismatched shapes, dtypes or devices, fewer than K atoms, a row of ``x`` that is zero, an atom
                that is not of unit length, or an entry that is not finite.
            TemporaryError: too little memory for the smallest blocks, or the file of the atoms changed.
            MissingExtra: lasso without scikit-learn.
        """
        dictionary = atoms if isinstance(atoms, DictionaryIndex) else None
        source = dictionary.atoms if dictionary else as_atoms(atoms)  # type: ignore[arg-type]
        _check(x, source, self.sparsity)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            if dictionary is None:
                dictionary = build_index(
                    source, device=x.device, products=len(x) * self.sparsity, block_size=self.block_size
                )
            elif dictionary.device != x.device:
                raise InputError(
                    f"the index is on {dictionary.device}, but the vectors are on {x.device}: build an index there"
                )
            # MPS has no float64: it computes the products, and the CPU all else.
            parts = list(self._parts(x.cpu() if x.device.type == "mps" else x, dictionary, progress))
        source.check_unchanged()
        index, weight = torch.cat([part.index for part in parts]), torch.cat([part.weight for part in parts])
        return SparseCode(index.to(x.device), weight.to(x.device))

    def memory(self, vectors: int, atoms: int, width: int) -> int:
        """Return a bound on the bytes that a call needs on a CPU, in float32, beside vectors ``[N, P]`` and dictionary.

        Only the int8 copy grows with the dictionary, up to ``int8.HELD_BYTES``; the rest is blocks of fixed size.

        Args:
            vectors, atoms, width: N, M and P.
        """
        rows = min(vectors, self._rows(width))
        rounded = 0
        if worth_rounding(torch.Size((atoms, width)), vectors * self.sparsity):
            rounded = min(HELD_BYTES + BLOCK * round_up(width), round_up(atoms) * round_up(width))
        reading = 32 * max(READ, min(BLOCK, round_up(atoms)) * width)
        sieving = 8 * SCORES + 160 * (PAIRS + SCORES)
        refit = 8 * rows * (3 * self.sparsity * width + 10 * self.sparsity**2 + 12 * width)
        lengths, codes, blocks = 9 * atoms, 12 * vectors * self.sparsity, 2000 * (atoms // BLOCK + 1)
        return rounded + reading + sieving + refit + lengths + codes + blocks

    def _rows(self, width: int) -> int:
        """Return the number of vectors coded at once."""
        return max(1, min(ROWS, CHOSEN // (self.sparsity * width)))

    def _parts(
        self, x: Tensor, dictionary: DictionaryIndex, progress: Callable[[int], object] | None
    ) -> Iterator[SparseCode]:
        """Yield the codes of ``x``, batch by batch; after a lack of memory in smaller batches and blocks."""
        size, scores = self._rows(x.shape[1]), scores_on(dictionary.device)
        start = 0
        while start < max(len(x), 1):
            search = AtomSearch(dictionary, self.block_size, scores)
            try:
                part = self._code(x[start : start + size], search)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if size <= LEAST_ROWS and scores <= LEAST_SCORES and dictionary.int8 is None:
                    raise TemporaryError(
                        f"{dictionary.device} has too little memory for {dictionary.atoms.shape[0]} atoms, even "
                        f"with {LEAST_ROWS} vectors at a time: free memory or use another device"
                    ) from None
                size, scores = max(LEAST_ROWS, size // 4), max(LEAST_SCORES, scores // 4)
                if size <= LEAST_ROWS:
                    dictionary = replace(dictionary, int8=None)
                continue
            yield part
            start += size
            if progress is not None:
                progress(len(part.index))

    def _code(self, x: Tensor, search: AtomSearch) -> SparseCode:
        if len(x) == 0:
            return SparseCode(x.new_empty(0, self.sparsity, dtype=torch.long), x.new_empty(0, self.sparsity))
        exact = x.double()
        # Normalise in two steps, so that squares neither overflow nor underflow.
        peak = exact.abs().amax(1, keepdim=True)
        exact = exact / peak
        length = torch.linalg.vector_norm(exact, dim=1, keepdim=True)
        index, weight = METHODS[self.method].run(exact / length, search, self.sparsity, self.coherence_weight)
        weight = (weight * length * peak).to(x.dtype)
        # Sort by index first, padding last; the stable sort by weight keeps that order among equal weights.
        order = torch.where(index < 0, torch.iinfo(torch.long).max, index).argsort(dim=1)
        index, weight = index.gather(1, order), weight.gather(1, order)
        order = weight.argsort(dim=1, descending=True, stable=True)
        return SparseCode(index.gather(1, order), weight.gather(1, order))


def _check(x: Tensor, atoms: Atoms, sparsity: int) -> None:
    """Raise InputError for vectors or atoms that cannot be coded."""
    if x.ndim != 2 or len(atoms.shape) != 2 or x.shape[1] != atoms.shape[1]:
        raise InputError(f"expected vectors [N, P] and atoms [M, P], got {list(x.shape)} and {list(atoms.shape)}")
    if x.dtype != atoms.dtype or x.dtype not in (torch.float32, torch.float64):
        raise InputError(f"vectors and atoms must both be float32 or both float64, got {x.dtype} and {atoms.dtype}")
    if x.device != atoms.device and (atoms.device.type != "cpu" or x.device.type == "meta"):
        raise InputError(f"vectors and atoms must be on one device, got {x.device} and {atoms.device}")
    if atoms.shape[0] < sparsity:
        raise InputError(
            f"an explanation of {sparsity} atoms needs at least {sparsity} in the dictionary; got {atoms.shape[0]}"
        )
    refuse_rows("x", ~torch.isfinite(x).all(1), "is not finite")
    refuse_rows("x", (x == 0).all(1), "is zero, without a direction to explain; remove it")
