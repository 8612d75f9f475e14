"""Embeddings of classes and captions by the text tower that all variants share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sith_hf.errors import InputError
from sith_hf.towers import LoadedModel, encode_texts, fill_template


def class_embeddings(
    text: LoadedModel | None, classes: Sequence[str], templates: Sequence[str], *, progress: bool = False
) -> NDArray[np.float64]:
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


def caption_embeddings(
    text: LoadedModel | None, captions: Sequence[str], *, progress: bool = False
) -> NDArray[np.float64]:
    """Return normalised embeddings of texts, float64 ``[M, P]``; equal texts get bit-identical embeddings.

    Raises:
        InputError: no text model.
    """
    if text is None:
        raise InputError(
            "this task encodes texts, and the vision towers come without a text tower: name the CLIPModel that they "
            "belong to with text_model (--text-model on the command line)"
        )
    different = list(dict.fromkeys(captions))
    encoded = encode_texts(text.model, text.tokenizer, different, progress=progress).double().numpy()
    place = {caption: number for number, caption in enumerate(different)}
    return np.asarray(encoded[[place[caption] for caption in captions]], dtype=np.float64)


def check_sizes(images: NDArray[np.float32], texts: NDArray[np.float64]) -> None:
    """Raise InputError unless images and texts have embeddings of one size."""
    if images.shape[-1] != texts.shape[-1]:
        raise InputError(
            f"image embeddings have size {images.shape[-1]}, text embeddings {texts.shape[-1]}: use the text model of "
            "this vision tower"
        )
