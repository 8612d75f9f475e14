"""COMP and OMP: orthogonal matching pursuit with a non-negative refit after each step (Method, sec. 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from sith_hf.pursuit.atoms import Atoms, as_atoms
from sith_hf.pursuit.nnls import nnls
from sith_hf.pursuit.search import AtomSearch

# How far rounding may move an atom out of the span of atoms that it depends on. The atoms of a centred dictionary are
# linearly dependent, which matters if an explanation takes nearly all of a small one.
NOISE = {torch.float32: 1e-5, torch.float64: 0.0}


def comp(x: Tensor, search: AtomSearch, sparsity: int, coherence_weight: float) -> tuple[Tensor, Tensor]:
    """Coherent orthogonal matching pursuit (SITH, sec. 4): one product per step for residual and coherence."""
    refit = _Refit(x, sparsity)
    total = torch.zeros_like(x)
    for step in range(sparsity):
        query = refit.residual + (coherence_weight / max(step, 1)) * total
        picked, _ = search.best(query, exclude=refit.index)
        total += refit.add(picked.squeeze(1), search)
    return refit.index, refit.weight


def omp(x: Tensor, search: AtomSearch, sparsity: int, coherence_weight: float) -> tuple[Tensor, Tensor]:
    """Non-negative orthogonal matching pursuit: COMP without coherence (SITH, sec. 4)."""
    return comp(x, search, sparsity, 0.0)


class _Refit:
    """The chosen atoms of N vectors, one more per step, with the best non-negative weights and the residuals."""

    def __init__(self, x: Tensor, sparsity: int) -> None:
        self.x = self.residual = x
        self.index = torch.empty(len(x), 0, dtype=torch.long, device=x.device)
        self.weight = x.new_empty(len(x), 0)
        self._atoms = x.new_empty(len(x), sparsity, x.shape[1])
        self._gram = x.new_empty(len(x), sparsity, sparsity)
        self._rhs = x.new_empty(len(x), sparsity)

    def add(self, picked: Tensor, search: AtomSearch) -> Tensor:
        """Choose atom ``picked[n]`` for vector n, refit, and return the chosen atoms ``[N, P]``."""
        step = self.index.shape[1]
        size = step + 1
        atoms = search.rows(picked).double()
        self._atoms[:, step] = atoms
        products = (self._atoms[:, :size] @ atoms.unsqueeze(2)).squeeze(2)
        self._gram[:, step, :size] = products
        self._gram[:, :size, step] = products
        self._rhs[:, step] = (self.x * atoms).sum(1)
        # The previous weights are at their minimum, so one or two solves usually suffice.
        start = torch.cat([self.weight, self.weight.new_zeros(len(self.x), 1)], 1)
        self.weight = nnls(self._gram[:, :size, :size], self._rhs[:, :size], start, noise=NOISE[search.atoms.dtype])
        self.residual = self.x - (self.weight.unsqueeze(1) @ self._atoms[:, :size]).squeeze(1)
        self.index = torch.cat([self.index, picked.unsqueeze(1)], 1)
        return atoms


def refit_weights(x: Tensor, index: Tensor, dictionary: Tensor | Atoms) -> Tensor:
    """Return the best non-negative weights ``[N, K]`` of the atoms ``index`` for ``x``; 0 where the index is -1."""
    chosen = as_atoms(dictionary).rows(index.clamp(min=0)).to(x.device)
    atoms = chosen.double() * (index >= 0).unsqueeze(2)
    return nnls(atoms @ atoms.mT, (atoms @ x.unsqueeze(2)).squeeze(2), noise=NOISE[dictionary.dtype])
