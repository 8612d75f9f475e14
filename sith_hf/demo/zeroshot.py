"""Zero-shot classification with the embedded checkpoint, and its accuracy for attributes and spurious groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from sith_hf.errors import InputError
from sith_hf.towers import encode_texts
from sith_hf.world import IMAGE_SIZE, OBJECT_TEMPLATES, TASKS, encode, render, sample_balanced, sample_groups

BATCH = 250
Pair = tuple[tuple[str, str], tuple[str, str]]


@torch.no_grad()
def embed_images(model: Any, images: NDArray[np.uint8]) -> Tensor:
    """Return normalised image embeddings, float32 `[N, P]`, of pictures uint8 `[N, 48, 48, 3]`."""
    if images.ndim != 4 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 3):
        raise InputError(f"pictures must be [N, {IMAGE_SIZE}, {IMAGE_SIZE}, 3]; got {list(images.shape)}")
    parts = []
    for start in range(0, len(images), BATCH):
        pixels = pixel_values(images[start : start + BATCH]).to(next(model.parameters()).dtype)
        parts.append(normalize(model.get_image_features(pixel_values=pixels).pooler_output.float(), dim=-1))
    return torch.cat(parts)


def pixel_values(images: NDArray[np.uint8]) -> Tensor:
    """Return pixel values, float32 `[N, 3, 48, 48]`, as the checkpoint's image processor computes them."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def class_embeddings(model: Any, processor: Any, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return class embeddings, each the normalised mean over templates, float32 `[len(names), P]`."""
    texts = [template.format(name) for name in names for template in templates]
    embeddings = encode_texts(model, getattr(processor, "tokenizer", processor), texts)
    return normalize(embeddings.reshape(len(names), len(templates), -1).mean(dim=1), dim=-1)


def classify(
    model: Any, processor: Any, images: NDArray[np.uint8], names: Sequence[str], templates: Sequence[str] = ("{}",)
) -> NDArray[np.int64]:
    """Classify pictures uint8 `[N, 48, 48, 3]` zero-shot; return indices into `names`, int64 `[N]`.

    Args:
        processor: a `CLIPProcessor` or tokenizer.
        templates: prompts with a `{}` for the name; their embeddings are averaged.

    Raises:
        InputError: pictures of another shape.
    """
    scores = embed_images(model, images) @ class_embeddings(model, processor, names, templates).T
    return scores.argmax(dim=-1).numpy()


def groups(model: Any, processor: Any, pair: Pair, count: int, seed: int) -> dict[str, float]:
    """Return the two-way zero-shot accuracy of a tied pair in each of its four groups, on `count` new pictures each."""
    names = [pair[0][0], pair[1][0]]
    accuracy = {}
    for i, (group, scenes) in enumerate(sample_groups(pair, count, seed).items()):
        pictures = render(scenes, seed + 1 + i)
        found = classify(model, processor, pictures, names, OBJECT_TEMPLATES)
        accuracy[group] = float((found == names.index(scenes[0].object)).mean())
    return accuracy


def attributes(model: Any, processor: Any, count: int, seed: int) -> dict[str, float]:
    """Return zero-shot accuracies on `count` new balanced pictures of untied objects, in [0, 1].

    Returns:
        "objects" (among all of `world.OBJECTS`), "colours", "backgrounds" and "sizes".
    """
    scenes = sample_balanced(count, seed)
    images, codes = embed_images(model, render(scenes, seed + 1)), encode(scenes)
    result = {}
    for axis, (key, (names, templates)) in enumerate(TASKS.items()):
        scores = images @ class_embeddings(model, processor, names, templates).T
        result[key] = float((scores.argmax(dim=-1).numpy() == codes[:, axis]).mean())
    return result
