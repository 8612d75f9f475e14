"""What the scores of a file may explain, and which of these they fit: the message to a user who named another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from sith_hf.decomposition import HeadSVD, factored_svd
from sith_hf.errors import InputError
from sith_hf.pursuit import SparseCode
from sith_hf.reference.files import ReferenceFile
from sith_hf.reference.fit import FITS, MISFIT, LayerFit, fit_of
from sith_hf.towers import Tower

NAMES = {"write": "right singular vectors", "read": "left singular vectors"}

ANYWAY = "check=False (--no-check on the command line) imports it anyway"


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """What the scores of a file may explain.

    Attributes:
        side: "write" or "read" directions.
        fold: whether the layer norm was folded in and the weights centred.
        image_mean: mu, ``[P]``; zero when None.
    """

    side: str
    fold: bool
    image_mean: Tensor | None

    def others(self) -> Iterator[Hypothesis]:
        """Yield the others, without an image mean too if there is one; the nearest first."""
        means = [self.image_mean] if self.image_mean is None else [self.image_mean, None]
        for side, mean, fold in product(dict.fromkeys((self.side, *NAMES)), means, (self.fold, not self.fold)):
            if (side, fold) != (self.side, self.fold) or mean is not self.image_mean:
                yield Hypothesis(side, fold, mean)

    def __str__(self) -> str:
        folded = "folded" if self.fold else "unfolded"
        return f"{NAMES[self.side]} of {folded} weights {'without' if self.image_mean is None else 'with'} image mean"


class ReferenceLayer:
    """One file and its layer of a tower."""

    def __init__(self, tower: Tower, item: ReferenceFile, atoms: Tensor) -> None:
        self.tower, self.item, self.atoms = tower, item, atoms
        scores, indices = item.heads(tower.num_heads)
        self.rank = scores.shape[1]
        self.code = _sorted(indices, scores)
        self._svds: dict[bool, HeadSVD] = {}

    def _whole(self, fold: bool) -> HeadSVD:
        if fold not in self._svds:
            layer = self.tower.layers[self.item.settings.layer]
            factors = layer.factors(self.tower.num_heads, fold=fold, centre=fold)
            self._svds[fold] = factored_svd(factors.write.cpu(), factors.read.cpu())
        return self._svds[fold]

    def svd(self, fold: bool) -> HeadSVD:
        """Return the singular vectors that the file explains."""
        svd = self._whole(fold)
        return HeadSVD(svd.write[:, : self.rank], svd.values[:, : self.rank], svd.read[:, : self.rank])

    def energy(self, fold: bool) -> Tensor:
        """Return the sum of all squared singular values of each head, ``[H]``."""
        return (self._whole(fold).values ** 2).sum(dim=-1)

    def fit(self, hypothesis: Hypothesis) -> tuple[Tensor, LayerFit]:
        """Return signs and agreement (see :func:`sith_hf.reference.fit.fit_of`)."""
        svd, settings = self.svd(hypothesis.fold), self.item.settings
        explained = svd.read if hypothesis.side == "read" else svd.write
        return fit_of(
            self.tower, explained, self.code, self.atoms, hypothesis.image_mean, settings.method, settings.layer
        )


def check_fit(layer: ReferenceLayer, hypothesis: Hypothesis, fit: LayerFit, without_mean: bool) -> None:
    """Raise InputError unless the scores fit, or differ as without an image mean and ``without_mean``."""
    if fit.silent > 0:
        raise InputError(
            f"the file of layer {fit.layer} has no scores for {fit.silent} vectors: it was saved incomplete. {ANYWAY}"
        )
    if fit.difference <= FITS:
        return
    start = f"the file of layer {fit.layer} does not fit this model and these concepts as {hypothesis}"
    for other in hypothesis.others():
        found = layer.fit(other)[1]
        if found.difference <= FITS:
            raise InputError(
                f"{start}: its scores fit {other} (they differ from weights computed again by {found.difference:.3f} "
                f"of the largest, not {fit.difference:.2f}). {_advice(hypothesis, other)}. {ANYWAY}"
            )
    if hypothesis.image_mean is None and not without_mean:
        raise InputError(
            f"{start}: weights computed again differ from the scores by {fit.difference:.2f} of the largest (median "
            "over vectors). The authors subtract an image mean: name their image_mean.pt with --image-mean, or import "
            "without it with --without-mean (without_mean=True). If they used none, check the model, their file of "
            f"concepts and its order. {ANYWAY}"
        )
    if hypothesis.image_mean is not None or fit.difference > MISFIT:
        raise InputError(
            f"{start}: weights computed again differ from the scores by {fit.difference:.2f} of the largest (median "
            "over vectors). Check the model, the authors' file of concepts and its order, and their image mean. "
            f"{ANYWAY}"
        )


def _advice(named: Hypothesis, other: Hypothesis) -> str:
    steps = []
    if other.side != named.side:
        steps.append(f"name the file with _{'left' if other.side == 'read' else 'right'}_")
    if other.fold != named.fold:
        steps.append("give --fold (fold=True)" if other.fold else "give --no-fold (fold=False)")
    if other.image_mean is not named.image_mean:
        steps.append("leave the image mean out")
    return f"To import it as such, {' and '.join(steps)}"


def _sorted(index: Tensor, scores: Tensor) -> SparseCode:
    """Flatten to rows ``[H * R, K]`` by descending score; padding comes last, after concepts of weight zero."""
    index, weight = index.flatten(0, 1), scores.flatten(0, 1).float()
    order = torch.where(index < 0, -1.0, weight).argsort(dim=1, descending=True, stable=True)
    return SparseCode(index.gather(1, order), weight.gather(1, order))
