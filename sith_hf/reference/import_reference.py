"""Convert the decompositions that the paper's authors publish to a ``Decomposition``.

The files (see :mod:`sith_hf.reference.files`) hold only explanations. Directions, singular values, ceilings, fidelity
and coherence come from the checkpoint. To check that a file belongs to it, the weights of the named concepts are fitted
again to the checkpoint's singular vectors and compared with the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sith_hf.concepts import ConceptDictionary
from sith_hf.core.fingerprint import BaseRef
from sith_hf.decomposition import Decomposition, factored_svd, quality_of
from sith_hf.errors import InputError
from sith_hf.pursuit import SparseCode, centred, refit_weights
from sith_hf.reference.files import ReferenceFile, numbered_concepts, read_reference
from sith_hf.towers import VisionTower, check_mean

FITS = 0.05
"""The largest difference between scores and refit, relative to the vector's largest score, that counts as agreement.
It covers rounding and half precision; almost all vectors of a good file stay below it."""

MISFIT = 0.5
"""A median difference above this means another model or other concepts. Concepts in another order give about 1."""


@dataclass(frozen=True)
class LayerFit:
    """The agreement of one file with the checkpoint.

    Attributes:
        layer: its layer.
        difference: the median over vectors of the largest difference between a score and the refitted weight of its
            concept, relative to the vector's largest score.
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
    check: bool = True,
    progress: bool = False,
) -> Imported:
    """Read published decompositions of some layers (Method, sec. 2 to 5).

    The sign of a pair of singular vectors is arbitrary. If the scores explain the opposite direction, the pair is
    negated, so that the file explains pole ``"+"``.

    Args:
        files: ``.pt`` files, one for each layer, with equal settings (see :mod:`sith_hf.reference.files`).
        tower: the tower that the files explain; it needs a projection.
        concepts: the text file of concepts, one a line, in the authors' order.
        encode: adds embeddings to a ``ConceptDictionary`` (:meth:`sith_hf.editor.SithEditor.encode`).
        name, revision: source of the tower's weights, for provenance.
        template: a prompt template, if the authors used one.
        image_mean: mu, ``[P]``, as the authors used it; zero when None.
        check: refuse files that do not fit; ``fits`` reports the agreement in either case.
        progress: show a bar on stderr.

    Raises:
        InputError: files that are unreadable, inconsistent, refer to missing layers or concepts, explain read
            directions, or do not fit the checkpoint.
    """
    items = sorted((read_reference(path) for path in files), key=lambda item: item.settings.layer)
    _check_files(items, tower)
    projection = tower.require_projection()
    if image_mean is not None:
        check_mean(image_mean, projection)
    dictionary, lines = numbered_concepts(concepts, template)
    for item in items:
        item.check_indices(lines, concepts)
    encoded = encode(dictionary)
    embeddings = encoded.embeddings
    if embeddings is None:
        raise InputError("encode returned concepts without embeddings; pass SithEditor.encode")
    # The authors' mean includes repeated lines.
    present = torch.tensor([place for place in lines if place >= 0])
    mean = embeddings[present].double().mean(dim=0).float()
    atoms = centred(embeddings, mean)
    if atoms.shape[1] != projection.shape[0]:
        raise InputError(f"embeddings have size {atoms.shape[1]}; this model needs size {projection.shape[0]}")
    place = torch.tensor([*lines, -1])

    settings = items[0].settings
    parts: list[dict[str, Tensor]] = []
    fits = []
    for item in tqdm(items, desc="importing", unit="layer", disable=not progress):
        factors = tower.layers[item.settings.layer].factors(tower.num_heads, fold=settings.fold, centre=settings.fold)
        svd = factored_svd(factors.write.cpu(), factors.read.cpu())
        scores, indices = item.heads(tower.num_heads)
        rank = scores.shape[1]
        write, values, read = svd.write[:, :rank], svd.values[:, :rank], svd.read[:, :rank]
        code = _merged(place[indices], scores)
        sign, fit = _fit(tower, write, code, atoms, image_mean, item.settings.layer)
        write, read = write * sign.unsqueeze(-1), read * sign.unsqueeze(-1)
        quality = quality_of(tower, atoms, write, code, image_mean)
        shape = (*scores.shape[:2], 1)
        parts.append(
            {
                "singular_values": values,
                "energy": (svd.values**2).sum(dim=-1),
                "write": write,
                "read": read,
                "concept": code.index.reshape(*shape, -1),
                "weight": code.weight.reshape(*shape, -1),
                "fidelity": quality.fidelity.reshape(shape),
                "coherence": quality.coherence.reshape(shape),
                "ceiling": tower.projected_norm(write),
            }
        )
        fits.append(fit)
    if check:
        _check_fit(fits)

    stacked = {key: torch.stack([part[key] for part in parts]) for key in parts[0]}
    used = sorted(set(stacked["concept"][stacked["concept"] >= 0].tolist()), key=encoded.texts.__getitem__)
    index = torch.full((len(encoded) + 1,), -1)
    index[used] = torch.arange(len(used))
    stacked["concept"] = index[stacked["concept"]]
    numbers = tuple(item.settings.layer for item in items)
    fields: dict[str, Any] = {key: t if key == "concept" else t.float() for key, t in stacked.items()}
    decomposition = Decomposition(
        layers=numbers,
        **fields,
        texts=tuple(encoded.texts[i] for i in used),
        embeddings=embeddings[used],
        dictionary_mean=mean,
        image_mean=torch.zeros_like(mean) if image_mean is None else image_mean.detach().float().cpu().clone(),
        poles=("+",),
        base=BaseRef(name, revision, tower.sha256(numbers)),
        settings={
            "fold": settings.fold,
            "centre": settings.fold,
            "image_mean": image_mean is not None,
            "method": settings.method,
            "sparsity": settings.sparsity,
            "coherence_weight": settings.coherence_weight,
            "dictionary_size": len(encoded),
            "dictionary_sha256": encoded.sha256,
            "encoder": encoded.encoder,
            "encoder_sha256": encoded.encoder_sha256,
            "template": template,
            "reference": {
                "dictionary": settings.dictionary,
                "sha256": {str(item.settings.layer): item.sha256 for item in items},
                "difference": {str(fit.layer): fit.difference for fit in fits},
            },
        },
    )
    return Imported(decomposition, encoded, tuple(fits))


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


def _merged(index: Tensor, scores: Tensor) -> SparseCode:
    """Flatten to rows ``[H * R, K]``; scores of a text on several lines are added up."""
    index, weight = index.flatten(0, 1).clone(), scores.flatten(0, 1).float()
    for later in range(1, index.shape[1]):
        same = (index[:, :later] == index[:, later : later + 1]) & (index[:, later : later + 1] >= 0)
        row = same.any(dim=1).nonzero().squeeze(1)
        weight[row, same[row].int().argmax(dim=1)] += weight[row, later]
        weight[row, later], index[row, later] = 0.0, -1
    # Padding comes last, after concepts of weight zero.
    order = torch.where(index < 0, -1.0, weight).argsort(dim=1, descending=True, stable=True)
    return SparseCode(index.gather(1, order), weight.gather(1, order))


def _fit(
    tower: VisionTower, write: Tensor, code: SparseCode, atoms: Tensor, image_mean: Tensor | None, layer: int
) -> tuple[Tensor, LayerFit]:
    """Return the sign of each vector that the scores explain, ``[H, R]``, and their agreement with it."""
    largest = code.weight.amax(dim=1).double()
    scored = largest > 0
    differences = []
    for sign in (1.0, -1.0):
        joint = tower.to_joint(sign * write, image_mean).flatten(0, 1)
        refit = refit_weights(joint.float().double(), code.index, atoms)
        off = (refit - code.weight.double()).abs().amax(dim=1) / largest.clamp(min=1e-12)
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
    return torch.where(turned, -1.0, 1.0).double().reshape(write.shape[:2]), fit


def _check_fit(fits: Sequence[LayerFit]) -> None:
    for fit in fits:
        if fit.silent > 0:
            raise InputError(
                f"the file of layer {fit.layer} has no scores for {fit.silent} vectors: it was saved incomplete. "
                "check=False (--no-check on the command line) imports it anyway"
            )
        if fit.difference > MISFIT:
            raise InputError(
                f"the file of layer {fit.layer} does not fit this model and these concepts: weights fitted to the "
                f"model's singular vectors differ from the scores by {fit.difference:.2f} of the largest (median over "
                "vectors). Check the model, the authors' file of concepts and its order, the authors' image mean (none "
                "if they used none), and that the file explains right singular vectors. check=False (--no-check on "
                "the command line) imports it anyway"
            )
