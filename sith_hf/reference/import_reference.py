"""Convert the decompositions that the paper's authors publish to a ``Decomposition``.

The files (see :mod:`sith_hf.reference.files`) hold only explanations. Directions, singular values, ceilings, fidelity
and coherence come from the checkpoint, and :mod:`sith_hf.reference.fit` checks that a file belongs to it.
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
from sith_hf.decomposition import Decomposition, quality_of
from sith_hf.errors import InputError
from sith_hf.reference.files import ReferenceFile, read_reference
from sith_hf.reference.fit import LayerFit
from sith_hf.reference.hypothesis import Hypothesis, ReferenceLayer, check_fit
from sith_hf.towers import Tower, check_mean


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
    tower: Tower,
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
    size = tower.joint_size
    if image_mean is not None:
        check_mean(image_mean, size)
        if without_mean:
            raise InputError("image_mean and without_mean exclude each other: leave one out")
    dictionary = ConceptDictionary.from_file(concepts, template=template, every_line=True)
    for item in items:
        item.check_indices(len(dictionary), concepts)
    encoded = encode(dictionary)
    if encoded.embeddings is None:
        raise InputError("encode returned concepts without embeddings; pass SithEditor.encode")
    if encoded.embeddings.shape[1] != size:
        raise InputError(f"embeddings have size {encoded.embeddings.shape[1]}; this model needs size {size}")

    settings = items[0].settings if fold is None else replace(items[0].settings, fold=fold)
    parts: list[dict[str, Tensor]] = []
    fits = []
    for item in tqdm(items, desc="importing", unit="layer", disable=not progress):
        hypothesis = Hypothesis(settings.side, settings.fold, image_mean)
        layer = ReferenceLayer(tower, item, encoded.atoms)
        svd, (sign, fit) = layer.svd(settings.fold), layer.fit(hypothesis)
        if check:
            check_fit(layer, hypothesis, fit, without_mean)
        write, read = svd.write * sign.unsqueeze(-1), svd.read * sign.unsqueeze(-1)
        explained = read if settings.side == "read" else write
        quality = quality_of(tower, encoded.atoms, explained, layer.code, image_mean, item.settings.layer)
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
                "ceiling": tower.readout(item.settings.layer).projected_norm(explained),
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


def _check_files(items: Sequence[ReferenceFile], tower: Tower) -> None:
    if not items:
        raise InputError("no reference file given; expected one .pt file for each layer")
    heads, most, first = tower.num_heads, tower.head_size, items[0]
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
