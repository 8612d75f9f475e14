"""Convert the decompositions that the paper's authors publish to a ``Decomposition``.

The files (see :mod:`sith_hf.reference.files`) hold only explanations. Directions, singular values, ceilings, fidelity
and coherence come from the checkpoint, and :mod:`sith_hf.reference.fit` checks that a file belongs to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sith_hf.concepts import ConceptDictionary
from sith_hf.core.fingerprint import BaseRef
from sith_hf.decomposition import Decomposition, HeadSVD, factored_svd, quality_of
from sith_hf.errors import InputError
from sith_hf.pursuit import SparseCode
from sith_hf.reference.files import ReferenceFile, read_reference
from sith_hf.reference.fit import FITS, MISFIT, LayerFit, fit_of
from sith_hf.towers import VisionTower, check_mean

NAMES = {"write": "right singular vectors", "read": "left singular vectors"}

ANYWAY = "check=False (--no-check on the command line) imports it anyway"


@dataclass(frozen=True, eq=False)
class Imported:
    """The content of reference files.

    Attributes:
        decomposition: the explanations, with pole ``"+"`` only.
        dictionary: the authors' concepts, encoded.
        fits: the agreement of each layer with the checkpoint, by layer.
    """

    decomposition: Decomposition
    dictionary: ConceptDictionary
    fits: tuple[LayerFit, ...]


def import_reference(
    files: Iterable[str | Path],
    tower: VisionTower,
    concepts: str | Path,
    encode: Callable[[ConceptDictionary], ConceptDictionary],
    *,
    name: str = "in memory",
    revision: str | None = None,
    template: str | None = None,
    image_mean: Tensor | None = None,
    without_mean: bool = False,
    fold: bool | None = None,
    check: bool = True,
    progress: bool = False,
) -> Imported:
    """Read published decompositions of some layers (Method, sec. 2 to 5).

    The sign of a pair of singular vectors is arbitrary. If the scores explain the opposite direction, the pair is
    negated, so that the file explains pole ``"+"``.

    Args:
        files: ``.pt`` files, one for each layer, with equal settings (see :mod:`sith_hf.reference.files`).
        tower: the tower that the files explain; it needs a projection.
        concepts: the text file of concepts, one a line, in the authors' order. Every line is a concept, blank and
            repeated ones too, and the mean is over all of them.
        encode: adds embeddings to a ``ConceptDictionary`` (:meth:`sith_hf.editor.SithEditor.encode`).
        name, revision: source of the tower's weights, for provenance.
        template: a prompt template, if the authors used one.
        image_mean: mu, ``[P]``, as the authors used it; zero when None.
        without_mean: accept scores that differ as without the authors' image mean.
        fold: whether the layer norm was folded in; as the files' names say when None.
        check: refuse files that do not fit; ``fits`` reports the agreement in either case.
        progress: show a bar on stderr.

    Raises:
        InputError: files that are unreadable, inconsistent, refer to missing layers or concepts, or do not fit the
            checkpoint: made for another one, with other concepts, folding, side or image mean than given.
    """
    items = sorted((read_reference(path) for path in files), key=lambda item: item.settings.layer)
    _check_files(items, tower)
    projection = tower.require_projection()
    if image_mean is not None:
        check_mean(image_mean, projection)
        if without_mean:
            raise InputError("image_mean and without_mean exclude each other: leave one out")
    dictionary = ConceptDictionary.from_file(concepts, template=template, every_line=True)
    for item in items:
        item.check_indices(len(dictionary), concepts)
    encoded = encode(dictionary)
    if encoded.embeddings is None:
        raise InputError("encode returned concepts without embeddings; pass SithEditor.encode")
    if encoded.embeddings.shape[1] != projection.shape[0]:
        raise InputError(
            f"embeddings have size {encoded.embeddings.shape[1]}; this model needs size {projection.shape[0]}"
        )

    settings = items[0].settings if fold is None else replace(items[0].settings, fold=fold)
    parts: list[dict[str, Tensor]] = []
    fits = []
    for item in tqdm(items, desc="importing", unit="layer", disable=not progress):
        hypothesis = Hypothesis(settings.side, settings.fold, image_mean)
        layer = _Layer(tower, item, encoded.atoms)
        svd, (sign, fit) = layer.svd(settings.fold), layer.fit(hypothesis)
        if check:
            _check_fit(layer, hypothesis, fit, without_mean)
        write, read = svd.write * sign.unsqueeze(-1), svd.read * sign.unsqueeze(-1)
        explained = read if settings.side == "read" else write
        quality = quality_of(tower, encoded.atoms, explained, layer.code, image_mean)
        shape = (*write.shape[:2], 1)
        parts.append(
            {
                "singular_values": svd.values,
                "energy": layer.energy(settings.fold),
                "write": write,
                "read": read,
                "concept": layer.code.index.reshape(*shape, -1),
                "weight": layer.code.weight.reshape(*shape, -1),
                "fidelity": quality.fidelity.reshape(shape),
                "coherence": quality.coherence.reshape(shape),
                "ceiling": tower.projected_norm(explained),
            }
        )
        fits.append(fit)

    stacked = {key: torch.stack([part[key] for part in parts]) for key in parts[0]}
    # Equal texts keep the order of their lines.
    used = sorted(set(stacked["concept"][stacked["concept"] >= 0].tolist()), key=lambda i: (encoded.texts[i], i))
    index = torch.full((len(encoded) + 1,), -1)
    index[used] = torch.arange(len(used))
    stacked["concept"] = index[stacked["concept"]]
    numbers = tuple(item.settings.layer for item in items)
    fields: dict[str, Any] = {key: t if key == "concept" else t.float() for key, t in stacked.items()}
    decomposition = Decomposition(
        layers=numbers,
        **fields,
        texts=tuple(encoded.texts[i] for i in used),
        embeddings=encoded.embeddings_of(used),
        dictionary_mean=encoded.mean,
        image_mean=torch.zeros_like(encoded.mean) if image_mean is None else image_mean.detach().float().cpu().clone(),
        poles=("+",),
        base=BaseRef(name, revision, tower.sha256(numbers), tower.settings),
        settings={
            "fold": settings.fold,
            "centre": settings.fold,
            **({"side": settings.side} if settings.side != "write" else {}),
            "image_mean": image_mean is not None,
            "method": settings.method,
            "sparsity": settings.sparsity,
            "coherence_weight": settings.coherence_weight,
            "dictionary_size": len(encoded),
            "dictionary_sha256": encoded.sha256,
            **encoded.encoder_record,
            "template": template,
            "reference": {
                "dictionary": settings.dictionary,
                "sha256": {str(item.settings.layer): item.sha256 for item in items},
                "difference": {str(fit.layer): fit.difference for fit in fits},
            },
        },
    )
    return Imported(decomposition, encoded, tuple(fits))


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


class _Layer:
    """One file and its layer of a tower."""

    def __init__(self, tower: VisionTower, item: ReferenceFile, atoms: Tensor) -> None:
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


def _check_files(items: Sequence[ReferenceFile], tower: VisionTower) -> None:
    if not items:
        raise InputError("no reference file given; expected one .pt file for each layer")
    heads, most, first = tower.num_heads, tower.hidden_size // tower.num_heads, items[0]
    seen: dict[int, Path] = {}
    for item in items:
        layer = item.settings.layer
        if layer >= len(tower.layers):
            raise InputError(
                f"{item.path}: layer {layer} does not exist: this model has layers 0-{len(tower.layers) - 1}"
            )
        if layer in seen:
            raise InputError(f"{item.path} and {seen[layer]} both explain layer {layer}; use one file for each layer")
        seen[layer] = item.path
        if replace(item.settings, layer=0) != replace(first.settings, layer=0):
            raise InputError(f"{item.path} and {first.path} were made with different settings; import them separately")
        if item.scores.shape[-1] != first.scores.shape[-1] or item.rows != first.rows:
            raise InputError(
                f"{item.path} has shape {[*item.scores.shape]}, {first.path} has {[*first.scores.shape]}; "
                "import them separately"
            )
        rank = item.heads(heads)[0].shape[1]
        if rank > most:
            raise InputError(
                f"{item.path} has {rank} vectors a head, this model has at most {most}: it was made for another model"
            )


def _sorted(index: Tensor, scores: Tensor) -> SparseCode:
    """Flatten to rows ``[H * R, K]`` by descending score; padding comes last, after concepts of weight zero."""
    index, weight = index.flatten(0, 1), scores.flatten(0, 1).float()
    order = torch.where(index < 0, -1.0, weight).argsort(dim=1, descending=True, stable=True)
    return SparseCode(index.gather(1, order), weight.gather(1, order))


def _check_fit(layer: _Layer, hypothesis: Hypothesis, fit: LayerFit, without_mean: bool) -> None:
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
