"""What a decomposition measures on images: the total effect of its vectors, and what drives them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from sith_hf.concepts import ConceptDictionary
from sith_hf.decomposition import (
    IMAGES,
    DecomposeSettings,
    Decomposition,
    TotalEffect,
    measure_total_effect,
    repeats,
)
from sith_hf.errors import InputError
from sith_hf.files import ResumableJob
from sith_hf.grounding import driven_by, is_driven_by
from sith_hf.images import BASE, Images, OpenModel, check_readable, first_images, model_variants


def check_images(editor: OpenModel, settings: DecomposeSettings, images: Images, *, words: bool) -> None:
    """Raise InputError if a decomposition with these settings cannot measure anything on images; it reads 32."""
    if images is None and settings.effect == "direct":
        return
    if editor.tower.kind != "vision":
        raise InputError(
            "images say what drives the vectors of a vision tower, and what later layers make of them; this is a text "
            'tower: leave images and effect="total" out (--images, --effect), or decompose the vision tower '
            '(tower="vision", --tower vision)'
        )
    if not words:
        raise InputError(
            "images say which concepts drive vectors, and there are no concepts: give concepts, or leave images and "
            "effect out (--images, --effect)"
        )
    if images is not None:
        check_readable(images)


def total_effect(
    editor: OpenModel,
    settings: DecomposeSettings,
    images: Images,
    *,
    processor: Any | None = None,
    device: torch.device | str | None = None,
    job: ResumableJob | None = None,
    progress: bool = False,
) -> TotalEffect:
    """Measure the total effect of the layers of ``settings`` on the first 64 images, or on 64 drawn leaves."""
    (variant,) = model_variants(editor, {BASE: None}, processor=processor)
    batches, record = first_images(variant, images, IMAGES)
    numbers = editor.tower.resolve_layers(settings.layers)
    return measure_total_effect(
        editor.model,
        editor.tower,
        batches,
        numbers,
        projection=variant.projection,
        images=record,
        device=device,
        job=job,
        progress=progress,
    )


def with_drivers(
    editor: OpenModel,
    decomposition: Decomposition,
    concepts: ConceptDictionary,
    images: Images,
    settings: DecomposeSettings,
    **options: Any,
) -> Decomposition:
    """Return a decomposition with as many concepts that drive each pole as it writes (:func:`driven_by`)."""
    found = driven_by(editor, decomposition, concepts, images, most=settings.pursuit.sparsity, **options)
    return replace(decomposition, drivers=found)


def repeats_on(
    found: Decomposition,
    editor: OpenModel,
    concepts: ConceptDictionary,
    settings: DecomposeSettings,
    images: Images,
) -> bool:
    """Return whether a decomposition of these concepts and images made ``found``. Images are read, and not embedded."""
    record = None
    if settings.effect == "total":
        (variant,) = model_variants(editor, {BASE: None})
        _, record = first_images(variant, images, IMAGES)
    if not repeats(found, editor.tower, concepts, settings, record) or (images is None) != (found.drivers is None):
        return False
    return found.drivers is None or is_driven_by(found.drivers, images)
