"""Sparse non-negative coding of vectors over a dictionary of unit atoms (Method, sec. 4).

Methods (COMP, OMP, matching pursuit, top-k, lasso), NNLS, and an exact search that may run on int8; the README beside
this file says why. It imports ``core`` and ``errors``.
"""

from sith_hf.pursuit.atoms import Atoms, CentredAtoms, SomeAtoms, TensorAtoms, as_atoms, blocks, centred, total
from sith_hf.pursuit.comp import refit_weights
from sith_hf.pursuit.index import DictionaryIndex, build_index
from sith_hf.pursuit.methods import METHODS
from sith_hf.pursuit.pursuit import ROWS, Pursuit, SparseCode

__all__ = [
    "Atoms",
    "CentredAtoms",
    "DictionaryIndex",
    "METHODS",
    "Pursuit",
    "ROWS",
    "SomeAtoms",
    "SparseCode",
    "TensorAtoms",
    "as_atoms",
    "blocks",
    "build_index",
    "centred",
    "refit_weights",
    "total",
]
