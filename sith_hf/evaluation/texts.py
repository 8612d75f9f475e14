"""Embeddings of classes and captions by the text tower that all contenders share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sith_hf.errors import InputError
from sith_hf.towers import LoadedModel, encode_texts, fill_template


def class_embeddings(
    text: LoadedModel | None, classes: Sequence[str], templates: Sequence[str], *, progress: bool = False
) -> NDArray[np.float64]:
    """One embedding for each class: the normalised mean over templates of normalised embeddings, float64 ``[K, P]``.

    Raises:
        InputError: no text model, a template without its place, a class that occurs twice.
    """
    if len(set(classes)) < len(classes):
        raise InputError(f"a class occurs twice among {', '.join(classes)}; give each a name of its own")
    filled = [item for template in templates for item in fill_template(classes, template)]
    stacked = caption_embeddings(text, filled, progress=progress).reshape(len(templates), len(classes), -1)
    mean = stacked.mean(axis=0)
    lengths = np.linalg.norm(mean, axis=-1, keepdims=True)
    if (lengths < 1e-6).any():
        raise InputError("the templates of a class cancel each other; use others")
    return np.asarray(mean / lengths, dtype=np.float64)


def caption_embeddings(
    text: LoadedModel | None, captions: Sequence[str], *, progress: bool = False
) -> NDArray[np.float64]:
    """Normalised embeddings of texts, float64 ``[M, P]``; equal texts get the very same embedding.

    Raises:
        InputError: no text model.
    """
    if text is None:
        raise InputError(
            "texts are needed here, and these vision towers have no text tower: name the CLIPModel that they belong "
            "to with text_model (--text-model on the command line)"
        )
    different = list(dict.fromkeys(captions))
    encoded = encode_texts(text.model, text.tokenizer, different, progress=progress).double().numpy()
    where = {caption: number for number, caption in enumerate(different)}
    found: NDArray[np.float64] = encoded[[where[caption] for caption in captions]]
    return found


def check_sizes(images: NDArray[np.float32], texts: NDArray[np.float64]) -> None:
    """Raises InputError where images and texts are not embedded into one space."""
    if images.shape[-1] != texts.shape[-1]:
        raise InputError(
            f"images have embeddings of size {images.shape[-1]} and texts of {texts.shape[-1]}: the text model belongs "
            "to another vision tower"
        )
