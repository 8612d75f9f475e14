"""The methods that choose atoms: COMP, OMP, matching pursuit, top-k and lasso."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from sith_hf.errors import MissingExtra
from sith_hf.pursuit.atoms import Atoms, as_atoms
from sith_hf.pursuit.nnls import nnls
from sith_hf.pursuit.search import TIE, AtomSearch

Coder = Callable[[Tensor, AtomSearch, int, float], tuple[Tensor, Tensor]]
"""A method: from unit vectors ``[N, P]`` float64, a dictionary, K and lambda to indices ``[N, K]`` int64, distinct in a
row and -1 for padding, and weights ``[N, K]`` float64, non-negative and 0 for padding, in any order."""

# How far rounding may move an atom out of the span of atoms that it depends on. The atoms of a centred dictionary are
# linearly dependent, which matters if an explanation takes nearly all of a small one.
NOISE = {torch.float32: 1e-5, torch.float64: 0.0}


@dataclass(frozen=True)
class Method:
    """A way to choose atoms, with its title and source for cards and tables."""

    title: str
    source: str
    run: Coder


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


def matching_pursuit(x: Tensor, search: AtomSearch, sparsity: int, coherence_weight: float) -> tuple[Tensor, Tensor]:
    """Non-negative matching pursuit, K steps, no refit (SITH, sec. 4).

    A step adds the atom of largest positive correlation with the residual, with that correlation as its weight.
    Weights of repeated atoms add up, and a vector stops when no correlation is positive, so it may get fewer than K
    atoms.
    """
    index = torch.full((len(x), sparsity), -1, device=x.device)
    weight = x.new_zeros(len(x), sparsity)
    residual = x.clone()
    going = torch.arange(len(x), device=x.device)
    for _ in range(sparsity):
        picked, score = search.best(residual[going])
        matched = score.squeeze(1) > TIE
        going, picked, score = going[matched], picked[matched], score[matched]
        if len(going) == 0:
            break
        # The slot of the same atom if there is one, else the first empty slot.
        same = index[going] == picked
        slot = torch.where(same.any(1), same.int().argmax(1), (index[going] < 0).int().argmax(1))
        index[going, slot] = picked.squeeze(1)
        weight[going, slot] += score.squeeze(1)
        residual[going] -= score * search.rows(picked.squeeze(1)).double()
    return index, weight


def top_k(x: Tensor, search: AtomSearch, sparsity: int, coherence_weight: float) -> tuple[Tensor, Tensor]:
    """Choose the K most similar atoms, then refit once, non-negative (SITH, sec. 4)."""
    index, _ = search.best(x, sparsity)
    return index, refit_weights(x, index, search.atoms)


def lasso(x: Tensor, search: AtomSearch, sparsity: int, coherence_weight: float) -> tuple[Tensor, Tensor]:
    """Positive lasso at the smallest penalty that keeps at most K atoms, then one non-negative refit (SITH, sec. 4).

    The penalty decreases along scikit-learn's ``lars_path_gram`` until one more atom would enter. The path runs over a
    pool of the most similar atoms. Then the optimality conditions are checked over the whole dictionary, and the pool
    grows by the atoms that violate them until none does. The refit removes the shrinkage of the lasso, so that methods
    are compared by their choice of atoms.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import lars_path_gram
    except ImportError as error:
        raise MissingExtra("scikit-learn", "lasso") from error

    available = search.atoms.shape[0]
    index = torch.full((len(x), sparsity), -1, device=x.device)
    waiting = torch.arange(len(x), device=x.device)
    pool, _ = search.best(x, min(available, max(32, 4 * sparsity)))
    while len(waiting) > 0:
        residual, penalty = torch.empty_like(x[waiting]), x.new_empty(len(waiting))
        for place, row in enumerate(waiting.tolist()):
            atoms = search.rows(pool[place]).double()
            with warnings.catch_warnings():
                # Equal atoms end a path early or leave it; the check below covers both.
                warnings.simplefilter("ignore", ConvergenceWarning)
                penalties, _, path = lars_path_gram(
                    (atoms @ x[row]).cpu().numpy(), (atoms @ atoms.T).cpu().numpy(), n_samples=1,
                    max_iter=8 * sparsity, method="lasso", positive=True,
                )  # fmt: skip
            crowded = (path > 0).sum(0) > sparsity
            knot = int(crowded.argmax()) - 1 if crowded.any() else path.shape[1] - 1
            coefficients = torch.from_numpy(path[:, knot].copy()).to(x)
            support = (coefficients > 0).nonzero().squeeze(1)
            index[row] = -1
            index[row, : len(support)] = pool[place, support]
            residual[place] = x[row] - coefficients @ atoms
            penalty[place] = float(penalties[knot])
        more = min(sparsity, available - pool.shape[1])
        if more == 0:
            break
        rivals, score = search.best(residual, more, exclude=pool)
        short = score[:, 0] > penalty + 1e-9
        waiting, pool = waiting[short], torch.cat([pool, rivals], 1)[short]
    return index, refit_weights(x, index, search.atoms)


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


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "comp": Method("coherent orthogonal matching pursuit (COMP)", "SITH, sec. 4", comp),
        "omp": Method("non-negative orthogonal matching pursuit", "SITH, sec. 4 (COMP with lambda 0)", omp),
        "mp": Method("non-negative matching pursuit", "SITH, sec. 4", matching_pursuit),
        "top-k": Method("the K most similar atoms, refit once", "SITH, sec. 4", top_k),
        "lasso": Method("positive lasso, refit once", "SITH, sec. 4; scikit-learn lars_path_gram", lasso),
    }
)
"""The methods by name. A new method is a function and a line here."""
