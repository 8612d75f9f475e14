"""Sparse non-negative coding of vectors over a dictionary of unit atoms: COMP and the methods it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sith_hf.core.validation import finite_number, whole_number
from sith_hf.errors import InputError, TemporaryError
from sith_hf.pursuit.atoms import READ, Atoms, as_atoms
from sith_hf.pursuit.index import DictionaryIndex, out_of_memory, pays_to_round, prepared, refuse_rows
from sith_hf.pursuit.int8 import BLOCK, HELD_BYTES, WIDE_BLOCK, up
from sith_hf.pursuit.methods import METHODS
from sith_hf.pursuit.search import PAIRS, AtomSearch, scores_on

ROWS = 1024
"""Vectors coded at once: enough to keep a matrix product busy, few enough to bound what is held beside it."""

CHOSEN = 2**24
"""Numbers in the chosen atoms of those vectors (128 MB): long explanations are coded fewer at a time."""

LEAST_ROWS = 32
"""Vectors coded at once when memory is short, at the least."""

LEAST_SCORES = 2**15
"""Scores in one block when memory is short, at the least."""


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

    def reconstruct(self, atoms: Tensor | Atoms) -> Tensor:
        """The weighted sums of atoms, ``[N, P]`` in the atoms' dtype.

        Args:
            atoms: ``[M, P]``, the dictionary that was coded over.

        Raises:
            InputError: the dictionary has fewer atoms than the code speaks of.
        """
        source = as_atoms(atoms)
        if len(source.shape) != 2 or (self.index.numel() > 0 and int(self.index.max()) >= source.shape[0]):
            raise InputError(f"the code speaks of atom {int(self.index.max())}; the dictionary is {list(source.shape)}")
        total = torch.zeros(len(self.index), source.shape[1], dtype=source.dtype, device=self.index.device)
        if source.shape[0] == 0:
            return total
        for index, weight in zip(self.index.T, self.weight.to(source.dtype).T, strict=True):
            total += weight.unsqueeze(1) * source.rows(index.clamp(min=0)).to(total.device)
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

    def __call__(
        self, x: Tensor, atoms: Tensor | Atoms | DictionaryIndex, progress: Callable[[int], object] | None = None
    ) -> SparseCode:
        """Code every row of ``x`` over ``atoms``.

        Rows of ``x`` are brought to unit length first, and the weights scaled back: ``c * x`` with c > 0 gets the
        atoms of ``x``, and c times its weights, although the coherence term is not homogeneous.

        Matrix products run in the dtype of ``x`` or, for large dictionaries, on eight-bit integers; choices, refits and
        residuals in float64. The atoms are those of a float64 pursuit over the same dictionary, with scores within
        1e-12 of each other counted as equal and won by the lowest index, for every block size, batch size and device.

        Args:
            x: ``[N, P]`` float32 or float64. N may be 0.
            atoms: ``[M, P]`` unit rows of the dtype of ``x``, M >= K, as a tensor, as
                :class:`~sith_hf.pursuit.Atoms` that are read block by block, or either :func:`prepared` for many calls.
                On the device of ``x``, or on the CPU: then blocks are sent to that device.
            progress: called now and then with the number of vectors finished since the last call (``tqdm.update``).

        Raises:
            InputError: shapes, dtypes or devices do not fit, there are fewer atoms than K, a row of ``x`` is zero,
                an atom does not have unit length, an entry is not finite, the file that atoms are read from changed,
                or memory did not suffice for the smallest blocks.
            MissingExtra: lasso without scikit-learn.
        """
        ready = atoms if isinstance(atoms, DictionaryIndex) else None
        source = ready.atoms if ready else as_atoms(atoms)  # type: ignore[arg-type]
        _check(x, source, self.sparsity)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            if ready is None:
                ready = prepared(source, device=x.device, products=len(x) * self.sparsity, block_size=self.block_size)
            elif ready.device != x.device:
                raise InputError(f"the atoms were prepared for {ready.device}; the vectors are on {x.device}")
            # Apple's GPUs have no float64: there they multiply, and what decides runs on the CPU.
            parts = list(self._parts(x.cpu() if x.device.type == "mps" else x, ready, progress))
        source.check_unchanged()
        index, weight = torch.cat([part.index for part in parts]), torch.cat([part.weight for part in parts])
        return SparseCode(index.to(x.device), weight.to(x.device))

    def memory(
        self, vectors: int, atoms: int, width: int, *, itemsize: int = 4, device: torch.device | str = "cpu"
    ) -> int:
        """The most bytes that a call takes beside its vectors and its dictionary, told before it is made.

        Only the dictionary's eight-bit form grows with it, and that is held up to ``coarse.HELD`` bytes; the
        rest is blocks of a fixed size, and it is counted generously.

        Args:
            vectors: N.
            atoms, width: M and P.
            itemsize: bytes of a number, 4 for float32, 8 for float64.
            device: where the vectors are.
        """
        where = torch.device(device)
        block, scores = BLOCK if where.type == "cpu" else WIDE_BLOCK, scores_on(where)
        rows = min(vectors, self._rows(width))
        rounded = 0
        if pays_to_round(torch.Size((atoms, width)), vectors * self.sparsity):
            rounded = min(HELD_BYTES + block * up(width), up(atoms) * up(width))
        reading = 8 * max(READ, min(block, up(atoms)) * width) * itemsize
        sieving = 2 * scores * itemsize + 160 * (PAIRS + scores)
        refit = 8 * rows * (3 * self.sparsity * width + 10 * self.sparsity**2 + 12 * width)
        lengths, codes, blocks = 9 * atoms, 12 * vectors * self.sparsity, 2000 * (atoms // block + 1)
        return rounded + reading + sieving + refit + lengths + codes + blocks

    def _rows(self, width: int) -> int:
        """Vectors coded at once."""
        return max(1, min(ROWS, CHOSEN // (self.sparsity * width)))

    def _parts(
        self, x: Tensor, ready: DictionaryIndex, progress: Callable[[int], object] | None
    ) -> Iterator[SparseCode]:
        """The codes of ``x``, a batch at a time; where memory does not suffice, in smaller batches and blocks."""
        size, scores = self._rows(x.shape[1]), scores_on(ready.device)
        start = 0
        while start < max(len(x), 1):
            search = AtomSearch(ready.atoms, ready.longest, self.block_size, ready.coarse, ready.device, scores)
            try:
                part = self._code(x[start : start + size], search)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if size <= LEAST_ROWS and scores <= LEAST_SCORES and ready.coarse is None:
                    raise TemporaryError(
                        f"{ready.device} has too little memory for pursuit over {ready.atoms.shape[0]} atoms, even "
                        f"{LEAST_ROWS} vectors at a time: free some, or use another device"
                    ) from None
                size, scores = max(LEAST_ROWS, size // 4), max(LEAST_SCORES, scores // 4)
                if size <= LEAST_ROWS:
                    ready = replace(ready, coarse=None)
                continue
            yield part
            start += size
            if progress is not None:
                progress(len(part.index))

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


def _check(x: Tensor, atoms: Atoms, sparsity: int) -> None:
    """Refuse what cannot be coded."""
    if x.ndim != 2 or len(atoms.shape) != 2 or x.shape[1] != atoms.shape[1]:
        raise InputError(f"expected vectors [N, P] and atoms [M, P], got {list(x.shape)} and {list(atoms.shape)}")
    if x.dtype != atoms.dtype or x.dtype not in (torch.float32, torch.float64):
        raise InputError(f"vectors and atoms must both be float32 or both float64, got {x.dtype} and {atoms.dtype}")
    if x.device != atoms.device and (atoms.device.type != "cpu" or x.device.type == "meta"):
        raise InputError(f"vectors and atoms must be on one device, got {x.device} and {atoms.device}")
    if atoms.shape[0] < sparsity:
        raise InputError(
            f"an explanation of {sparsity} atoms needs a dictionary of at least as many, got {atoms.shape[0]}"
        )
    refuse_rows("x", ~torch.isfinite(x).all(1), "is not finite")
    refuse_rows("x", (x == 0).all(1), "is zero, and a zero vector has no direction to explain")
