"""The methods that choose atoms, by name: COMP and OMP (in comp.py), matching pursuit, top-k and lasso."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from sith_hf.errors import MissingExtra
from sith_hf.pursuit.comp import comp, omp, refit_weights
from sith_hf.pursuit.search import TIE, AtomSearch

Coder = Callable[[Tensor, AtomSearch, int, float], tuple[Tensor, Tensor]]
"""A method: from unit vectors ``[N, P]`` float64, a dictionary, K and lambda to indices ``[N, K]`` int64, distinct in a
row and -1 for padding, and weights ``[N, K]`` float64, non-negative and 0 for padding, in any order."""


@dataclass(frozen=True)
class Method:
    """A way to choose atoms, with its title and source for cards and tables."""

    title: str
    source: str
    run: Coder


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
