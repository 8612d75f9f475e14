"""How well a reference file fits the checkpoint: its weights computed again, as its method computes them.

A file holds no singular values. But its concepts determine the weights: COMP, OMP and top-k end in a non-negative least
squares fit, matching pursuit in the correlation of each step, and lasso where all its concepts correlate alike with the
residual. Weights that belong to other directions come out different.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sith_hf.pursuit import SparseCode, refit_weights
from sith_hf.towers import Tower

FITS = 0.05
"""The largest difference between scores and weights computed again, relative to the vector's largest score, that counts
as agreement. It covers rounding and half precision; almost all vectors of a good file stay below it."""

MISFIT = 0.5
"""A median difference above this means another model or other concepts. Concepts in another order give about 1, a
missing image mean about 0.3."""


@dataclass(frozen=True)
class LayerFit:
    """The agreement of one file with the checkpoint.

    Attributes:
        layer: its layer.
        difference: the median over vectors of the largest difference between a score and the weight of its concept
            computed again, relative to the vector's largest score.
        agreeing: the share of vectors where that difference is at most ``FITS``, 0 to 1.
        silent: the number of vectors without a positive score, as in a file saved before it was complete.
        turned: the number of vectors negated because the scores explain the opposite direction.
    """

    layer: int
    difference: float
    agreeing: float
    silent: int
    turned: int

    def __str__(self) -> str:
        return (
            f"layer {self.layer}: scores differ from a refit by {self.difference:.3f} (median), "
            f"{self.agreeing:.0%} of vectors agree, {self.turned} with negated sign"
        )


def fit_of(
    tower: Tower,
    directions: Tensor,
    code: SparseCode,
    atoms: Tensor,
    image_mean: Tensor | None,
    method: str,
    layer: int,
) -> tuple[Tensor, LayerFit]:
    """Compare the scores of a file with directions.

    Args:
        tower: the tower of the directions.
        directions: ``[H, R, D]`` float64, unit length.
        code: the file's concepts and scores, row ``h * R + r`` for direction ``[h, r]``.
        atoms: ``[M, P]`` float32, the dictionary's centred unit rows.
        image_mean: mu, ``[P]``; zero when None.
        method: the file's method, a name in ``sith_hf.pursuit.METHODS``.
        layer: the file's layer.

    Returns:
        The sign of each direction that the scores explain, ``[H, R]``, and the agreement with it.
    """
    largest = code.weight.amax(dim=1).double()
    scored = largest > 0
    differences = []
    for sign in (1.0, -1.0):
        joint = tower.to_joint(sign * directions, image_mean, layer).flatten(0, 1).float().double()
        found = [again - code.weight.double() for again in _again(joint, code, atoms, method)]
        off = torch.stack([item.abs().amax(dim=1) for item in found]).amin(dim=0) / largest.clamp(min=1e-12)
        differences.append(torch.where(scored, off, 1.0))
    turned = differences[1] < differences[0]
    difference = torch.minimum(*differences)
    fit = LayerFit(
        layer=layer,
        difference=float(difference.median()),
        agreeing=float((difference <= FITS).double().mean()),
        silent=int((~scored).sum()),
        turned=int(turned.sum()),
    )
    return torch.where(turned, -1.0, 1.0).double().reshape(directions.shape[:2]), fit


def _again(x: Tensor, code: SparseCode, atoms: Tensor, method: str) -> list[Tensor]:
    """Return the weights ``[N, K]`` of the concepts of ``code`` for ``x`` by each variant of a method."""
    if method not in ("mp", "lasso"):
        return [refit_weights(x, code.index, atoms)]
    chosen = atoms[code.index.clamp(min=0)].double() * (code.index >= 0).unsqueeze(2)
    if method == "lasso":
        return [_penalised(x, chosen, code.weight.double())]
    # The authors never take a concept twice; ours adds to its weight.
    return [_pursued(x, chosen, again) for again in (False, True)]


def _pursued(x: Tensor, chosen: Tensor, again: bool) -> Tensor:
    """Return the weights of matching pursuit over the chosen atoms ``[N, K, P]``: the best of all is among them."""
    weight, residual, rows = x.new_zeros(chosen.shape[:2]), x.clone(), torch.arange(len(x))
    for _ in range(chosen.shape[1]):
        score = (chosen @ residual.unsqueeze(2)).squeeze(2)
        best = (score if again else score.masked_fill(weight > 0, 0.0)).clamp(min=0).max(dim=1)
        weight[rows, best.indices] += best.values
        residual = residual - best.values.unsqueeze(1) * chosen[rows, best.indices]
    return weight


def _penalised(x: Tensor, chosen: Tensor, weight: Tensor) -> Tensor:
    """Return the minimum of a lasso with the chosen atoms ``[N, K, P]`` at the penalty that ``weight`` implies.

    At the minimum, every atom of positive weight has the penalty as its correlation with the residual; after a refit it
    is zero.
    """
    present = weight > 0
    atoms = chosen * present.unsqueeze(2)
    correlation = (atoms @ (x - (weight.unsqueeze(1) @ atoms).squeeze(1)).unsqueeze(2)).squeeze(2)
    penalty = (correlation.sum(dim=1, keepdim=True) / present.sum(dim=1, keepdim=True).clamp(min=1)).clamp(min=0)
    off = ((correlation - penalty) * present).unsqueeze(2)
    step: Tensor = torch.linalg.pinv(atoms @ atoms.mT, rtol=1e-9, hermitian=True) @ off
    return weight + step.squeeze(2)
