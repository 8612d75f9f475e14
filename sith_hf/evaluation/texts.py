"""Embeddings of classes and captions by the text towers of the variants, each tower asked once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sith_hf.errors import InputError
from sith_hf.evaluation import metrics
from sith_hf.towers import LoadedModel, encode_texts, fill_template

Towers = Sequence[LoadedModel | None]
Embeddings = NDArray[np.float64]

MOVED = 0.1
"""An edit that moves a class by more (1 - cosine) changes what the class means."""


def by_variant(
    towers: Towers, encode: Callable[[LoadedModel | None], Embeddings], known: dict[int, Embeddings] | None = None
) -> list[Embeddings]:
    """Return ``encode(tower)`` for the text tower of each variant; variants with one tower share one array.

    ``known`` holds what earlier calls with the same towers and ``encode`` have returned.
    """
    found = {} if known is None else known
    for tower in towers:
        if id(tower) not in found:
            found[id(tower)] = encode(tower)
    return [found[id(tower)] for tower in towers]


def class_embeddings(
    text: LoadedModel | None, classes: Sequence[str], templates: Sequence[str], *, progress: bool = False
) -> Embeddings:
    """Return one embedding for each class: the normalised mean over its prompts' embeddings, float64 ``[K, P]``.

    Raises:
        InputError: no text model, or a template without {}.
    """
    filled = [item for template in templates for item in fill_template(classes, template)]
    stacked = caption_embeddings(text, filled, progress=progress).reshape(len(templates), len(classes), -1)
    mean = stacked.mean(axis=0)
    lengths = np.linalg.norm(mean, axis=-1, keepdims=True)
    if (lengths < 1e-6).any():
        raise InputError("the prompts of a class have embeddings that cancel each other; use other templates")
    return np.asarray(mean / lengths, dtype=np.float64)


def caption_embeddings(text: LoadedModel | None, captions: Sequence[str], *, progress: bool = False) -> Embeddings:
    """Return normalised embeddings of texts, float64 ``[M, P]``; equal texts get bit-identical embeddings.

    Raises:
        InputError: no text model.
    """
    if text is None:
        raise InputError(
            "this task encodes texts, and the vision towers come without a text tower: name the whole model that "
            "they belong to with text_model (--text-model on the command line)"
        )
    different = list(dict.fromkeys(captions))
    encoded = encode_texts(text.model, text.tokenizer, different, progress=progress).double().numpy()
    place = {caption: number for number, caption in enumerate(different)}
    return np.asarray(encoded[[place[caption] for caption in captions]], dtype=np.float64)


def check_sizes(images: NDArray[np.float32], texts: Sequence[Embeddings]) -> None:
    """Raise InputError unless images and the texts of every variant have embeddings of one size."""
    for own in texts:
        if images.shape[-1] != own.shape[-1]:
            raise InputError(
                f"image embeddings have size {images.shape[-1]}, text embeddings {own.shape[-1]}: use the text model "
                "of this vision tower"
            )


def class_drift(classes: Sequence[Embeddings], base: int) -> NDArray[np.float64] | None:
    """Return 1 - cosine between each class and its base, ``[C, K]``; None if all variants have one text tower."""
    if all(own is classes[base] for own in classes):
        return None
    return np.stack([metrics.drift(classes[base], own) for own in classes])


def moved_classes(names: Sequence[str], drifts: Mapping[str, Sequence[float]]) -> list[str]:
    """Return a remark on the classes that an edit of the text tower moves far; empty without any.

    Args:
        names: K classes.
        drifts: the variants with an edited text tower to the K drifts of :func:`class_drift`.
    """
    far = {name: max(own[k] for own in drifts.values()) for k, name in enumerate(names)}
    shown = ", ".join(f"{name} {drift:.2f}" for name, drift in far.items() if drift > MOVED)
    if not shown:
        return []
    return [
        f"an edit of the text tower moves classes (1 - cosine): {shown}. They no longer mean what their names say, and "
        "may attract images of any kind"
    ]
