"""Ground poles of singular vectors in images (Method, sec. 8).

The paper shows images of CC12M that drive a vector; its protocol is not public beyond that. This one is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from sith_hf.core.devices import exact_device
from sith_hf.core.ranges import Numbers
from sith_hf.core.validation import whole_number
from sith_hf.decomposition import Decomposition
from sith_hf.edits import AnySpec
from sith_hf.errors import BaseMismatch, InputError, UnsupportedModel
from sith_hf.files import ResumableJob
from sith_hf.grounding.agreement import agreement
from sith_hf.grounding.coefficients import Vector, check_vision, read_where
from sith_hf.grounding.grounding import Grounding
from sith_hf.grounding.patches import token_parts
from sith_hf.grounding.pole import GroundedImage, GroundedPole
from sith_hf.grounding.sheet import SHOWN
from sith_hf.grounding.strongest import StrongestImages, strongest_images
from sith_hf.grounding.view import View
from sith_hf.images import (
    BASE,
    OpenModel,
    image_dataset,
    model_variants,
    ready,
)

STRONGEST = 10
"""The vectors to ground when none are named."""


def ground(
    editor: OpenModel,
    decomposition: Decomposition,
    images: Any = None,
    *,
    vectors: Sequence[Vector],
    processor: Any | None = None,
    batch_size: int = 32,
    job: ResumableJob | None = None,
    progress: bool = False,
) -> Grounding:
    """Show which images drive singular vectors, where in them, and how well images and words agree.

    One pass over the images serves all vectors, with as few images in memory as are kept. For each pole: the 16 images
    with the largest coefficients in its direction; for 8 of them the part of each patch; and the AUC of the similarity
    of these images to the explanation against random images, with a permutation p-value.

    Args:
        editor: of the decomposed model.
        decomposition: its singular vectors, of the vision tower.
        images: a dataset of at least 32 images: settings, a folder or Hub id, or an opened ``datasets.Dataset`` or
            ``IterableDataset`` with a column ``image``; 1,000 drawn leaves when None.
        vectors: the (layer, head, vector) to ground (:func:`chosen_vectors`).
        processor: the image processor; the one in the checkpoint's folder when None.
        batch_size: images at a time.
        job: stores finished pieces and shares pieces between processes, all of which return the result.
        progress: show a bar on stderr.

    Raises:
        InputError: no vectors, fewer than 32 readable images, a missing column, or a text tower.
        BaseMismatch: the decomposition was made from other weights.
    """
    batch_size, job = whole_number(batch_size, "batch_size", 1), job or ResumableJob()
    check_vision(editor.tower)
    if not vectors:
        raise InputError("no vectors to ground: name layers, heads or vectors, or an edit that changes some")
    # Fail before images are fetched or drawn.
    editor.tower.check(
        decomposition.base, [layer for layer in decomposition.layers if layer < len(editor.tower.layers)]
    )
    source = image_dataset(images, progress=progress and job.processes.is_main)
    (variant,) = model_variants(editor, {BASE: None}, processor=processor)
    device = exact_device(variant.device)
    with ready([variant], device):
        view = View.of(variant, device)
        found = strongest_images(
            editor, decomposition, vectors, source, view, batch_size=batch_size, job=job, progress=progress
        )
        return job.processes.on_main(partial(_grounding, editor, decomposition, vectors, view, found, device))


def chosen_vectors(
    decomposition: Decomposition,
    *,
    layers: Numbers | None = None,
    heads: Numbers | None = None,
    vectors: Numbers | None = None,
    top: int | None = None,
    spec: AnySpec | None = None,
) -> list[Vector]:
    """Return vectors to ground, the largest singular value first.

    Args:
        decomposition: the vectors.
        layers, heads, vectors: numbers in the decomposition, negative ones from the last, or texts such as ``"-4:"``;
            all when None.
        top: the most vectors; when None ``STRONGEST``, and all that a spec edits.
        spec: an edit, whose vectors are chosen in place of all.

    Raises:
        InputError: a number that is not in the decomposition, ``top`` below 1, or an edit beside numbers.
        BaseMismatch: an edit of the other tower, or of other weights.
    """
    if spec is None:
        numbers = product(
            decomposition.resolve_layers(layers),
            decomposition.resolve_heads(heads),
            decomposition.resolve_vectors(vectors),
        )
        found = list(dict.fromkeys(numbers))
        top = STRONGEST if top is None else top
    elif (layers, heads, vectors) != (None, None, None):
        raise InputError("an edit names its vectors: leave layers, heads and vectors out")
    else:
        found = _edited(decomposition, spec)
    count = len(found) if top is None else whole_number(top, "top", 1)
    strength = {key: float(decomposition.singular_values[decomposition.place(*key)]) for key in found}
    return sorted(found, key=lambda key: -strength[key])[:count]


def _edited(decomposition: Decomposition, spec: AnySpec) -> list[Vector]:
    part = next((part for part in spec.parts if part.tower == decomposition.tower), None)
    if part is None:
        raise BaseMismatch(f"this edit has no part in the decomposed {decomposition.tower} tower")
    shared = part.base.only(decomposition.base.sha256)
    shared.check(decomposition.base.sha256, f"the decomposed {decomposition.base.name}", decomposition.base.settings)
    return part.keys


def repeats(found: Any, decomposition: Decomposition, vectors: Sequence[Vector]) -> bool:
    """Return whether the JSON of a grounding is of these vectors of this decomposition."""
    match found:
        case {"base": base, "poles": list(poles)} if all(isinstance(pole, dict) for pole in poles):
            named = [(pole.get("layer"), pole.get("head"), pole.get("vector")) for pole in poles]
            return base == decomposition.base.to_json() and list(dict.fromkeys(named)) == list(vectors)
    return False


def _grounding(
    editor: OpenModel,
    decomposition: Decomposition,
    vectors: Sequence[Vector],
    view: View,
    found: StrongestImages,
    device: torch.device,
) -> Grounding:
    notes = []
    if not decomposition.has_words:
        notes.append("no words explain these vectors, so nothing is compared with the images")
    elif not view.embeds:
        notes.append(f"the images are not compared with the words: {view.reason}")
    try:
        parts = [_parts(editor, decomposition, vector, number, view, found, device)
                 for number, vector in enumerate(vectors)]  # fmt: skip
    except UnsupportedModel as error:
        notes.append(f"no overlays: {error}")
        parts = [{} for _ in vectors]
    poles = [
        _pole(editor, decomposition, vector, pole, number, found, own)
        for number, (vector, own) in enumerate(zip(vectors, parts, strict=True))
        for pole in decomposition.poles or ("+", "-")
    ]
    rows = {image.row for pole in poles for image in (*pole.images[:SHOWN], *pole.random[:SHOWN])}
    pictures = {row: image.picture for key, image in found.found.images.items() if (row := found.row(key)) in rows}
    return Grounding(tuple(poles), pictures, decomposition.base, found.record, tuple(notes))


def _parts(
    editor: OpenModel,
    decomposition: Decomposition,
    vector: Vector,
    number: int,
    view: View,
    found: StrongestImages,
    device: torch.device,
) -> dict[int, tuple[Tensor, float]]:
    """Return the parts of patches ``[rows, columns]`` and of all other tokens, by the keys of the images to show."""
    kept = found.found
    poles = decomposition.poles or ("+", "-")
    keys = list(dict.fromkeys(key for pole in poles for key in kept.strongest(number, pole)[:SHOWN]))
    pixels = view.again([kept.images[key].picture for key in keys]).to(device)
    parts = token_parts(editor.model, editor.tower, decomposition, vector, pixels, view.embed)
    return dict(zip(keys, zip(parts.patches.cpu().float(), parts.others.tolist(), strict=True), strict=True))


def _pole(
    editor: OpenModel,
    decomposition: Decomposition,
    vector: Vector,
    pole: str,
    number: int,
    found: StrongestImages,
    parts: dict[int, tuple[Tensor, float]],
) -> GroundedPole:
    kept, explanation, beyond, direction = found.found, None, None, None
    place = decomposition.place(*vector)
    if decomposition.has_words:
        explanation, side = decomposition.explain(*vector, pole), decomposition.poles.index(pole)
        better = decomposition.beyond_chance()
        beyond = None if better is None else bool(better[(*place, side)])
        weight, concept = decomposition.weight[(*place, side)], decomposition.concept[(*place, side)]
        direction = weight[concept >= 0].double() @ decomposition.atoms[concept[concept >= 0]].double()

    def seen(key: int) -> GroundedImage:
        image, (patches, others) = kept.images[key], parts.get(key, (None, None))
        similarity = None
        if direction is not None and len(image.embedding) and explanation is not None and explanation.concepts:
            similarity = float(image.embedding.double() @ direction)
        coefficient = float(image.coefficients[number])
        return GroundedImage(found.row(key), image.file, coefficient, similarity, patches, others)

    keys = kept.strongest(number, pole)
    # Small datasets have few images beside the strongest ones.
    keys = keys[: max(1, found.record["count"] // 4)]
    top, random = tuple(map(seen, keys)), tuple(seen(key) for key in kept.random if key not in set(keys))
    similar, others = ([i.similarity for i in images if i.similarity is not None] for images in (top, random))
    share = float(found.active[number])
    return GroundedPole(
        *vector,
        pole,
        read_where(editor.model, editor.tower, vector[0]),
        share if pole == "+" else 1 - share,
        top,
        random,
        explanation,
        beyond,
        agreement(similar, others) if similar and others else None,
    )
